"""The graph of a model: what writes to the residual stream, what reads it, and which edges there are between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2
from neuroscope.vocabulary.component_names import INPUT, LOGITS, SLOTS, Place, receiver_name, sender_name

Mask = NDArray[np.bool_]
"""Edges: (sender, receiver)."""
MOST_NODES = 20_000
"""Of a graph; the largest models that there are have 16,000."""


@dataclass(frozen=True)
class ComponentGraph:
    """Senders, receivers and the edges between them; matrices are (sender, receiver).

    Args:
        senders: names in the order in which they write, `input` first.
        receivers: names, `logits` among them.
        sender_counts: of each receiver, how many senders come before it and so reach it.
        group_size: heads that share a key/value head.
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    sender_counts: tuple[int, ...]
    group_size: int = 1
    rows: dict[str, int] = field(init=False, repr=False, compare=False)
    """Of each sender, its index."""
    columns: dict[str, int] = field(init=False, repr=False, compare=False)
    """Of each receiver, its index."""
    readings: dict[str, list[int]] = field(init=False, repr=False, compare=False)
    """Of each node, the indices of the receivers that it reads by."""

    def __post_init__(self) -> None:
        readings: defaultdict[str, list[int]] = defaultdict(list)
        for column, receiver in enumerate(self.receivers):
            for node in self.readers(receiver):
                readings[node].append(column)
        object.__setattr__(self, "rows", {name: index for index, name in enumerate(self.senders)})
        object.__setattr__(self, "columns", {name: index for index, name in enumerate(self.receivers)})
        object.__setattr__(self, "readings", dict(readings))

    def __repr__(self) -> str:
        sizes = f"{len(self.senders)} senders, {len(self.receivers)} receivers, {self.edge_count} edges"
        return f"ComponentGraph({sizes})"

    @classmethod
    def from_plan(
        cls, senders: Iterable[experiment_pb2.EdgeSender], receivers: Iterable[experiment_pb2.EdgeReceiver]
    ) -> ComponentGraph:
        """The graph that the inference service describes."""
        listed = list(receivers)
        names = tuple(map(sender_name, senders))
        reads = tuple(map(receiver_name, listed))
        return cls(names, reads, tuple(each.sender_count for each in listed), _group_size(names, reads))

    @classmethod
    def from_model(cls, model: pb.CircuitModel) -> ComponentGraph:
        """The graph of a model whose layers all have attention and an MLP."""
        if model.layer_count * (model.head_count + 1) > MOST_NODES:
            raise InvalidRequestError(f"a graph has at most {MOST_NODES} nodes", field="circuit")
        names = [INPUT]
        for layer in range(model.layer_count):
            names += [*(f"a{layer}.h{head}" for head in range(model.head_count)), f"m{layer}"]
        return cls.from_nodes([*names, LOGITS], model)

    @classmethod
    def from_nodes(cls, names: Iterable[str], model: pb.CircuitModel) -> ComponentGraph:
        """The graph of some nodes; layers of a model may lack attention or an MLP.

        Args:
            names: of the nodes, input and logits among them.
            model: says how many heads share keys and values, and whether attention and MLP are parallel.

        Raises:
            InvalidRequestError: a name is none of a node, or there are more than `MOST_NODES`.
        """
        heads: defaultdict[int, int] = defaultdict(int)
        mlps: set[int] = set()
        for place in map(Place.of, names):
            if place.kind == pb.CIRCUIT_NODE_KIND_HEAD and place.layer is not None and place.head is not None:
                heads[place.layer] = max(heads[place.layer], place.head + 1)
            elif place.kind == pb.CIRCUIT_NODE_KIND_MLP and place.layer is not None:
                mlps.add(place.layer)
        if sum(heads.values()) + len(mlps) > MOST_NODES:
            raise InvalidRequestError(f"a graph has at most {MOST_NODES} nodes", field="circuit")
        group_size = max(model.head_count // (model.key_value_head_count or model.head_count or 1), 1)
        senders, receivers, counts = [INPUT], list[str](), list[int]()
        for layer in sorted({*heads, *mlps}):
            before, count = len(senders), heads[layer]
            for slot, size in zip(SLOTS, (1, group_size, group_size), strict=True):
                receivers += [f"a{layer}.h{head}<{slot}>" for head in range(count // size)]
            counts += [before] * (len(receivers) - len(counts))
            senders += [f"a{layer}.h{head}" for head in range(count)]
            if layer in mlps:
                receivers.append(f"m{layer}")
                counts.append(before if model.is_parallel else len(senders))
                senders.append(f"m{layer}")
        return cls(tuple(senders), (*receivers, LOGITS), (*counts, len(senders)), group_size)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Everything that writes, and the logits."""
        return (*self.senders, LOGITS)

    @property
    def mask(self) -> Mask:
        """Where there is an edge."""
        return np.arange(len(self.senders))[:, None] < np.array(self.sender_counts)[None]

    @property
    def edge_count(self) -> int:
        """How many edges there are."""
        return sum(self.sender_counts)

    def has_edge(self, sender: str, receiver: str) -> bool:
        """Whether there is such an edge."""
        if sender not in self.rows or receiver not in self.columns:
            return False
        return self.rows[sender] < self.sender_counts[self.columns[receiver]]

    def readers(self, receiver: str) -> list[str]:
        """The nodes that a receiver is part of: several heads where it is a key/value head of theirs."""
        place = Place.of(receiver)
        if place.slot in ("k", "v") and place.head is not None:
            first = place.head * self.group_size
            return [f"a{place.layer}.h{head}" for head in range(first, first + self.group_size)]
        return [receiver.partition("<")[0]]

    def pruned(self, edges: Mask) -> Mask:
        """Those of some edges that lie on a path from input to logits along them."""
        reached = np.zeros(len(self.senders), bool)
        for row, sender in enumerate(self.senders):
            into = self.readings.get(sender, [])
            reached[row] = sender == INPUT or bool((edges[:row, into] & reached[:row, None]).any())
        used = np.zeros(len(self.receivers), bool)
        used[self.columns[LOGITS]] = True
        for row in reversed(range(len(self.senders))):
            if (edges[row] & used).any():
                used[self.readings.get(self.senders[row], [])] = True
        return edges & reached[:, None] & used[None]

    def strongest(self, scores: NDArray[np.floating], count: int) -> Mask:
        """So many edges whose scores have the largest magnitudes; of equals the first. What is NaN has no score."""
        strengths = np.where(self.mask & np.isfinite(scores), np.abs(scores), -1.0).reshape(-1)
        order = np.argsort(-strengths, kind="stable")[:count]
        chosen = np.zeros(strengths.size, bool)
        chosen[order[strengths[order] >= 0]] = True
        return chosen.reshape(scores.shape)

    def induced(self, nodes: Iterable[str]) -> Mask:
        """All edges between some nodes, and between them and the logits."""
        kept = {*nodes, LOGITS}
        writes = np.array([sender in kept for sender in self.senders])
        reads = np.array([any(node in kept for node in self.readers(receiver)) for receiver in self.receivers])
        return self.mask & writes[:, None] & reads[None]

    def nodes_of(self, edges: Mask) -> list[str]:
        """Input, logits and the nodes at both ends of some edges, in the order in which they write."""
        found = {INPUT, LOGITS}
        found.update(self.senders[row] for row in np.flatnonzero(edges.any(1)))
        for column in np.flatnonzero(edges.any(0)):
            readers = self.readers(self.receivers[column])
            writing = [node for node in readers if node in self.rows and edges[self.rows[node]].any()]
            found.update(writing or readers)
        return [node for node in self.nodes if node in found]

    def edge_pairs(self, edges: Mask) -> list[tuple[str, str]]:
        """Sender and receiver of some edges."""
        return [(self.senders[row], self.receivers[column]) for row, column in np.argwhere(edges)]

    def mask_of(self, edges: Iterable[tuple[str, str]]) -> Mask:
        """The matrix of some edges; those that the graph does not have are left out."""
        found = np.zeros((len(self.senders), len(self.receivers)), bool)
        for sender, receiver in edges:
            if self.has_edge(sender, receiver):
                found[self.rows[sender], self.columns[receiver]] = True
        return found


def _group_size(senders: Sequence[str], receivers: Sequence[str]) -> int:
    """Heads of a key/value head, of the first layer that has heads."""
    heads = [Place.of(name) for name in senders if name.startswith("a")]
    if not heads:
        return 1
    layer = heads[0].layer
    keys = [place for place in map(Place.of, receivers) if place.slot == "k" and place.layer == layer]
    return max(sum(head.layer == layer for head in heads) // max(len(keys), 1), 1)
