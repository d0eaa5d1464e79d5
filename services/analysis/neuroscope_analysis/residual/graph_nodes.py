"""Names of what writes and what reads, and the order in which they do: the inference service's names of paths.

The attention of layer l is 2 l in the order, its MLP 2 l + 1, what enters the first block -1, the logits twice the
number of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Writer:
    """What writes.

    Args:
        order: when.
        head: of attention; None: an MLP, or the input.
    """

    order: int
    head: int | None = None

    @property
    def layer(self) -> int:
        """-1: the input."""
        return self.order // 2 if self.order >= 0 else -1

    @property
    def name(self) -> str:
        """input, a0.h3, m0."""
        if self.order < 0:
            return "input"
        return f"m{self.layer}" if self.head is None else f"a{self.layer}.h{self.head}"


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads.

    Args:
        order: when.
        name: a1.h0<q>, m1, logits.
    """

    order: int
    name: str

    @property
    def layer(self) -> int:
        """That of the logits is the number of layers."""
        return self.order // 2


def readers_of(
    attention: Mapping[int, int], mlps: Mapping[int, bool], key_value_heads: int, layer_count: int
) -> list[Reader]:
    """All that read, in their order.

    Args:
        attention: heads by layer.
        mlps: by layer that has one, whether it reads beside the attention and not behind it.
        key_value_heads: of a layer.
        layer_count: of the model.
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
    """Whole layers between both."""
    return max(0, reader.layer - writer.layer - 1)
