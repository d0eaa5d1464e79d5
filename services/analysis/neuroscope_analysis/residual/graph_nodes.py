"""Writers and readers of the residual stream, by their names in paths and their order.

The order of the attention of layer l is 2 l, of its MLP 2 l + 1, of the input -1, of the logits twice the number of
layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer.

    Args:
        order: its order.
        head: head of attention; None for an MLP or the input.
    """

    order: int
    head: int | None = None

    @property
    def layer(self) -> int:
        """The layer; -1 for the input."""
        return self.order // 2 if self.order >= 0 else -1

    @property
    def name(self) -> str:
        """The name: input, a0.h3, m0."""
        if self.order < 0:
            return "input"
        return f"m{self.layer}" if self.head is None else f"a{self.layer}.h{self.head}"


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader.

    Args:
        order: its order.
        name: a1.h0<q>, m1, logits.
    """

    order: int
    name: str

    @property
    def layer(self) -> int:
        """The layer; the number of layers for the logits."""
        return self.order // 2


def readers_of(
    attention: Mapping[int, int], mlps: Mapping[int, bool], key_value_heads: int, layer_count: int
) -> list[Reader]:
    """All readers, in order.

    Args:
        attention: number of heads by layer.
        mlps: layers with an MLP; true if it runs in parallel with attention.
        key_value_heads: number of key/value heads of a layer.
        layer_count: number of layers of the model.
    """
    found: list[Reader] = []
    for layer in range(layer_count):
        if layer in attention:
            found += [Reader(2 * layer, f"a{layer}.h{head}<q>") for head in range(attention[layer])]
            found += [
                Reader(2 * layer, f"a{layer}.h{head}<{part}>") for part in "kv" for head in range(key_value_heads)
            ]
        if layer in mlps:
            found.append(Reader(2 * layer + (not mlps[layer]), f"m{layer}"))
    return [*found, Reader(2 * layer_count, "logits")]


def layers_between(writer: Writer, reader: Reader) -> int:
    """The number of whole layers in between."""
    return max(0, reader.layer - writer.layer - 1)
