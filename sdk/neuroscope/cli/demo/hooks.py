"""What the demo asks for: residual stream, attention patterns and MLP outputs of every layer, in both vocabularies."""

from __future__ import annotations

from collections.abc import Sequence

from neuroscope.activations.stream import GeneratedToken
from neuroscope.client import Client
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.frames import TensorPiece

COMPONENTS = {"resid_post": "residual", "attention_pattern": "attention_pattern", "mlp_out": "mlp"}
"""The same points in the SDK's words and in those of the REST format."""
_VOCABULARY_BATCH = 20_000


def hooks(model: pb.Model) -> list[Hook]:
    """As the SDK takes them."""
    return [
        Hook(component, layer, hook_id=f"{component}.{layer}")
        for component in COMPONENTS
        for layer in range(model.num_layers)
    ]


def rest_hooks(model: pb.Model) -> list[dict[str, str]]:
    """As the REST interface takes them."""
    return [
        {"layer_name": f"transformer.h.{layer}", "component": name, "hook_id": f"{component}.{layer}"}
        for component, name in COMPONENTS.items()
        for layer in range(model.num_layers)
    ]


def pieces_by_hook(tokens: Sequence[GeneratedToken]) -> dict[str, list[TensorPiece]]:
    """All pieces by hook, in step order."""
    pieces: dict[str, list[TensorPiece]] = {}
    for token in tokens:
        for hook_id, found in token.activations.items():
            pieces.setdefault(hook_id, []).extend(found)
    return pieces


def vocabulary(client: Client, model: pb.Model) -> list[str]:
    """The text of every token id."""
    texts: list[str] = []
    batch = min(_VOCABULARY_BATCH, model.context_length or _VOCABULARY_BATCH)  # no prompt is longer than the context
    for start in range(0, model.vocab_size, batch):
        ids = range(start, min(start + batch, model.vocab_size))
        texts.extend(client.tokenize(list(ids), model_id=model.model_id).tokens)
    return texts
