"""The SDK in one page: capture while generating, capture one forward pass, index the cache, save it.

    neuroscope up                        # in another terminal
    python examples/first_capture.py

NEUROSCOPE_TARGET is the address of the service (default 127.0.0.1:50051), or `local` to run the engine in this process.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

import neuroscope

BUNDLED = Path(__file__).resolve().parents[1] / "models" / "neuroscope-tiny"

with neuroscope.Client(os.environ.get("NEUROSCOPE_TARGET", "127.0.0.1:50051")) as client:
    model = client.load_model(str(BUNDLED))
    print(f"{model.model_id}: {model.num_layers} layers, {model.num_heads} heads")

    # Each token arrives with the activations of its step, as read-only numpy views of the message.
    generation = client.generate(
        [{"role": "user", "content": "What is the capital of France?"}],
        hooks=["resid_post", ("attention_pattern", 0)],
        max_tokens=12,
    )
    for token in generation:
        pieces = [piece for arrived in token.activations.values() for piece in arrived]
        print(f"{token.text!r:12} {len(pieces)} tensors, {sum(piece.array.nbytes for piece in pieces)} bytes")
    print(generation.text)

    # One forward pass without sampling. TransformerLens names work as well as (component, layer).
    cache = client.capture(
        "When Mary and John went to the store, John gave a drink to", ["resid_post", "attention_pattern"]
    )
    last = model.num_layers - 1
    assert np.array_equal(cache["resid_post", last], cache[f"blocks.{last}.hook_resid_post"])
    pattern = cache["attention_pattern", last]  # (batch, head, query, key)
    print("attention rows sum to", pattern.sum(axis=-1).min(), "...", pattern.sum(axis=-1).max())

    path = Path(tempfile.mkdtemp()) / "capture.safetensors"
    cache.save(path)
    print(cache)
    print("saved and loaded:", len(neuroscope.ActivationCache.load(path)), "tensors")
