"""Interventions: steer by a direction, patch from another prompt, ablate a head, steer a running generation.

    neuroscope up                        # in another terminal
    python examples/steering.py

NEUROSCOPE_TARGET is the address of the service (default 127.0.0.1:50051), or `local` to run the engine in this process.
"""

import os
from pathlib import Path

from neuroscope import Client, add, edit, scale, zero

BUNDLED = Path(__file__).resolve().parents[1] / "models" / "neuroscope-tiny"

with Client(os.environ.get("NEUROSCOPE_TARGET", "127.0.0.1:50051")) as client:
    model_id = client.load_model(str(BUNDLED)).model_id

    # Steering: add the difference between Italy and France at the last position of another country.
    italy, france = (
        client.capture(f"The capital of {country} is", ["resid_post.1"], model_id=model_id)["resid_post", 1][0, -1]
        for country in ("Italy", "France")
    )
    direction = client.put_tensor(italy - france)  # (d_model,)
    prompt = "The capital of Norway is"
    towards_italy = add("resid_post", 1, direction, 2.0, positions=-1, steps=0)
    print(towards_italy)
    print("plain:  ", client.generate(prompt, model_id=model_id).wait().text)
    print("steered:", client.generate(prompt, model_id=model_id, interventions=[towards_italy]).wait().text)

    # Patching: give the second John (position 10) the residual stream that Mary has there in the other row.
    story = "When Mary and John went to the store, {} gave a drink to"
    rows = [story.format("John"), story.format("Mary")]
    patched = edit("resid_post", 1, lambda act: act.replace(act.row(1)), positions=10, steps=0, rows=[0])
    print(patched)
    print("plain:  ", client.generate(rows, model_id=model_id).wait().texts)
    print("patched:", client.generate(rows, model_id=model_id, interventions=[patched]).wait().texts)

    # Ablation: zero the head of the last layer that copies the other name.
    without_head = zero("attention", 3, heads=[6])
    print(without_head)
    print("ablated:", client.generate(rows[0], model_id=model_id, interventions=[without_head]).wait().text)

    # Steering midway: in lockstep the engine computes a step when its token is requested.
    first_step = 0
    question = [{"role": "user", "content": "Tell me a story about a fox."}]
    with client.generate(question, model_id=model_id, max_steps_ahead=1, max_tokens=24) as generation:
        for token in generation:
            if token.step == 11:
                first_step = generation.steer([scale("mlp_out", None, 0.5)])
    print(f"halved MLPs from step {first_step} on: {generation.text}")
