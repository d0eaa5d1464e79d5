"""Receivers of paths: queries of a head, keys or values of a key/value head, or the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neuroscope.v1 import interaction_pb2 as pb
from neuroscope_analysis.head_paths import Head

PARTS = {"q": pb.RECEIVER_PART_Q, "k": pb.RECEIVER_PART_K, "v": pb.RECEIVER_PART_V}


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver."""

    part: pb.ReceiverPart.ValueType
    head: Head | None
    """None for the logits; a key/value head for keys and values."""

    @property
    def name(self) -> str:
        """The name in sweeps."""
        if self.head is None:
            return "logits"
        letter = next(letter for letter, part in PARTS.items() if part == self.part)
        return f"a{self.head[0]}.h{self.head[1]}<{letter}>"

    def is_reached_by(self, sender: Head) -> bool:
        """Whether it is in a later layer than a head."""
        return self.head is None or sender[0] < self.head[0]


LOGITS = Receiver(pb.RECEIVER_PART_LOGITS, None)


def receivers_by_layer(heads: Sequence[Head], heads_count: int, key_value_heads: int) -> Iterator[list[Receiver]]:
    """Receivers layer by layer, then the logits.

    Args:
        heads: heads whose queries and key/value heads are receivers.
        heads_count: number of heads of a layer.
        key_value_heads: number of key/value heads of a layer.
    """
    for layer in sorted({layer for layer, _ in heads}):
        of_layer = [head for at, head in heads if at == layer]
        shared = sorted({head * key_value_heads // heads_count for head in of_layer})
        yield [
            *(Receiver(pb.RECEIVER_PART_Q, (layer, head)) for head in of_layer),
            *(Receiver(PARTS[letter], (layer, head)) for letter in "kv" for head in shared),
        ]
    yield [LOGITS]
