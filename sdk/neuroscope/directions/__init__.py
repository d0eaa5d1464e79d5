"""Steering directions: found from two sets of prompts, tested by cross-validation, stored with provenance.

    from neuroscope import Directions, contrast

    found = contrast(client, ["I love it", ...], ["I hate it", ...], "resid_post")
    found.table()                                          accuracy of each layer's direction
    direction = found["resid_post.5"]
    client.generate(prompt, interventions=direction.steer(2.0)).wait().text
    client.generate(prompt, interventions=direction.remove()).wait().text
    found.save("sentiment.safetensors")
    Directions.load("sentiment.safetensors")["resid_post.5"]

`neuroscope.contrast` finds directions with a client; methods are described in `neuroscope.directions.finding`.
"""

from neuroscope.directions.direction import Direction
from neuroscope.directions.directions import Directions
from neuroscope.directions.finding import METHODS

__all__ = ["METHODS", "Direction", "Directions"]
