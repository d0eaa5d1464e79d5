"""Directions of contrast: found from two sets of prompts, tested, stored with where they come from, and steered by.

    from neuroscope import Directions, contrast

    found = contrast(client, ["I love it", ...], ["I hate it", ...], "resid_post")
    found.table()                                          how well each layer tells the two sets apart
    direction = found["resid_post.5"]
    client.generate(prompt, interventions=direction.steer(2.0)).wait().text
    client.generate(prompt, interventions=direction.remove()).wait().text
    found.save("sentiment.safetensors")
    Directions.load("sentiment.safetensors")["resid_post.5"]

Methods are in `finding`, `neuroscope.contrast` finds directions with a client, files are in `directions`.
"""

from neuroscope.directions.direction import Direction
from neuroscope.directions.directions import Directions
from neuroscope.directions.finding import METHODS

__all__ = ["METHODS", "Direction", "Directions"]
