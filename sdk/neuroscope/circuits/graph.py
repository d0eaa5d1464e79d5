"""The computational graph of a model: components that write to the residual stream, and what reads from it."""

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
from neuroscope.vocabulary.counts import counted

Mask = NDArray[np.bool_]
"""Edges: (sender, receiver)."""
MOST_NODES = 20_000
"""The most nodes of a graph; the largest known models have 16,000."""


@dataclass(frozen=True)
class ComponentGraph:
    """Senders, receivers and the edges between them; matrices are (sender, receiver).

    Args:
        senders: names in execution order, `input` first.
        receivers: names, including `logits`.
        sender_counts: for each receiver, the number of senders before it, which are those that reach it.
        group_size: the number of heads that share a key/value head.
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    sender_counts: tuple[int, ...]
    group_size: int = 1
    rows: dict[str, int] = field(init=False, repr=False, compare=False)
    """Index of each sender."""
    columns: dict[str, int] = field(init=False, repr=False, compare=False)
    """Index of each receiver."""
    readings: dict[str, list[int]] = field(init=False, repr=False, compare=False)
    """Indices of each node's receivers."""

    def __post_init__(self) -> None:
        readings: defaultdict[str, list[int]] = defaultdict(list)
        for column, receiver in enumerate(self.receivers):
            for node in self.readers(receiver):
                readings[node].append(column)
        object.__setattr__(self, "rows", {name: index for index, name in enumerate(self.senders)})
        object.__setattr__(self, "columns", {name: index for index, name in enumerate(self.receivers)})
        object.__setattr__(self, "readings", dict(readings))

    def __repr__(self) -> str:
        nodes = f"{counted(len(self.senders), 'sender')}, {counted(len(self.receivers), 'receiver')}"
        sizes = f"{nodes}, {counted(self.edge_count, 'edge')}"
        return f"ComponentGraph({sizes})"

    @classmethod
    def from_plan(
        cls, senders: Iterable[experiment_pb2.EdgeSender], receivers: Iterable[experiment_pb2.EdgeReceiver]
    ) -> ComponentGraph:
        """The graph of an attribution's plan."""
        listed = list(receivers)
        names = tuple(map(sender_name, senders))
        reads = tuple(map(receiver_name, listed))
        return cls(names, reads, tuple(each.sender_count for each in listed), _group_size(names, reads))

    @classmethod
    def from_model(cls, model: pb.CircuitModel) -> ComponentGraph:
        """The graph of a model in which every layer has attention and an MLP."""
        if model.layer_count * (model.head_count + 1) > MOST_NODES:
            raise InvalidRequestError(f"a graph has at most {MOST_NODES} nodes", field="circuit")
        names = [INPUT]
        for layer in range(model.layer_count):
            names += [*(f"a{layer}.h{head}" for head in range(model.head_count)), f"m{layer}"]
        return cls.from_nodes([*names, LOGITS], model)

    @classmethod
    def from_nodes(cls, names: Iterable[str], model: pb.CircuitModel) -> ComponentGraph:
        """The graph of the given nodes; a layer may lack attention or an MLP.

        Args:
            names: names of the nodes, including input and logits.
            model: the number of heads per key/value head, and whether attention and MLP run in parallel.

        Raises:
            InvalidRequestError: a name is invalid, or there are more than `MOST_NODES` nodes.
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
        """All senders, then the logits."""
        return (*self.senders, LOGITS)

    @property
    def mask(self) -> Mask:
        """Mask of all edges (sender, receiver)."""
        return np.arange(len(self.senders))[:, None] < np.array(self.sender_counts)[None]

    @property
    def edge_count(self) -> int:
        """The number of edges."""
        return sum(self.sender_counts)

    def has_edge(self, sender: str, receiver: str) -> bool:
        """Whether the graph has an edge."""
        if sender not in self.rows or receiver not in self.columns:
            return False
        return self.rows[sender] < self.sender_counts[self.columns[receiver]]

    def readers(self, receiver: str) -> list[str]:
        """The nodes that a receiver belongs to: several heads if they share a key/value head."""
        place = Place.of(receiver)
        if place.slot in ("k", "v") and place.head is not None:
            first = place.head * self.group_size
            return [f"a{place.layer}.h{head}" for head in range(first, first + self.group_size)]
        return [receiver.partition("<")[0]]

    def pruned(self, edges: Mask) -> Mask:
        """Removes edges that are on no path from input to logits."""
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
        """The `count` edges with the largest magnitudes of scores. Ties go to the first; NaN means no score."""
        strengths = np.where(self.mask & np.isfinite(scores), np.abs(scores), -1.0).reshape(-1)
        if count < strengths.size:
            least = np.partition(strengths, -count)[-count]
            chosen = strengths > least
            chosen[np.flatnonzero(strengths == least)[: count - int(chosen.sum())]] = True
            chosen &= strengths >= 0
        else:
            chosen = strengths >= 0
        return chosen.reshape(scores.shape)

    def induced(self, nodes: Iterable[str]) -> Mask:
        """The induced subgraph: all edges among the given nodes and from them to the logits."""
        kept = {*nodes, LOGITS}
        writes = np.array([sender in kept for sender in self.senders])
        reads = np.array([any(node in kept for node in self.readers(receiver)) for receiver in self.receivers])
        return self.mask & writes[:, None] & reads[None]

    def nodes_of(self, edges: Mask) -> list[str]:
        """Input, logits and the nodes at both ends of the given edges, in execution order."""
        found = {INPUT, LOGITS}
        found.update(self.senders[row] for row in np.flatnonzero(edges.any(1)))
        for column in np.flatnonzero(edges.any(0)):
            readers = self.readers(self.receivers[column])
            writing = [node for node in readers if node in self.rows and edges[self.rows[node]].any()]
            found.update(writing or readers)
        return [node for node in self.nodes if node in found]

    def edge_pairs(self, edges: Mask) -> list[tuple[str, str]]:
        """Sender and receiver of each edge of a mask."""
        return [(self.senders[row], self.receivers[column]) for row, column in np.argwhere(edges)]

    def mask_of(self, edges: Iterable[tuple[str, str]]) -> Mask:
        """The mask of the given edges; edges that the graph does not have are ignored."""
        found = np.zeros((len(self.senders), len(self.receivers)), bool)
        for sender, receiver in edges:
            if self.has_edge(sender, receiver):
                found[self.rows[sender], self.columns[receiver]] = True
        return found


def _group_size(senders: Sequence[str], receivers: Sequence[str]) -> int:
    """The number of heads per key/value head, in the first layer with heads."""
    heads = [Place.of(name) for name in senders if name.startswith("a")]
    if not heads:
        return 1
    layer = heads[0].layer
    keys = [place for place in map(Place.of, receivers) if place.slot == "k" and place.layer == layer]
    return max(sum(head.layer == layer for head in heads) // max(len(keys), 1), 1)
