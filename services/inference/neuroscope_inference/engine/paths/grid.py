"""A grid of paths: senders x receivers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import mlx.core as mx

from neuroscope.errors import InvalidRequestError, MLXIntegrationError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2
from neuroscope.vocabulary.sites import COMPONENTS
from neuroscope_inference.engine.attributions.graph import EdgeGraph
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.paths.nodes import Receiver, Sender, parse_receivers, parse_senders
from neuroscope_inference.engine.paths.plan import PathPlan
from neuroscope_inference.engine.paths.support import why_no_paths
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey
from neuroscope_inference.engine.sweeps.cells import ROW_EDITS, EditExtent, boundary_of, check_donors
from neuroscope_inference.engine.sweeps.pair import Pair
from neuroscope_inference.engine.sweeps.points import check_indices
from neuroscope_inference.engine.sweeps.replacement import ReplacementValue


class PathGrid:
    """The paths of one entry of a request.

    Args:
        model: what is edited.
        message: the entry.
        path: of the entry in the request.
        first_cell: number of its first cell in the request.
        pairs: which it is run on.
        resolve: finds tensors.

    Raises (from the constructor):
        UnknownSiteError, UnavailableSiteError: a component is none of a path's, or the model does not have it.
        InvalidRequestError: a head or a position does not exist, no path leads from a sender to a receiver, or there is
            no value.
    """

    def __init__(
        self,
        model: LoadedModel,
        message: pb.PathGrid,
        path: str,
        first_cell: int,
        pairs: Sequence[Pair],
        resolve: ResolveTensor,
    ) -> None:
        self._model, self._path, self._first_cell, self._resolve = model, path, first_cell, resolve
        self._recomputes_mlps = message.recompute_mlps
        self._receivers = parse_receivers(model, message.receivers, f"{path}.receivers")
        self._names = [entry.name for entry in message.receivers]
        self._senders = parse_senders(model, message.senders, self._receivers, f"{path}.senders")
        self._value = ReplacementValue(message.value, f"{path}.value", COMPONENTS[self._senders[0].point.component])
        for pair in pairs:
            self._check_positions(pair)
        self._graph: EdgeGraph | None = None

    @property
    def count(self) -> int:
        """How many cells."""
        return len(self._senders) * len(self._receivers)

    def shape(self, first_cell: int) -> pb.GridShape:
        """Senders and receivers, by name."""
        named = [
            name or " + ".join(receiver.label for receiver in nodes)
            for name, nodes in zip(self._names, self._receivers, strict=True)
        ]
        senders = [sender.label for sender in self._senders]
        axes = [
            pb.GridAxis(name=name, indices=range(len(labels)), labels=_unique_labels(labels))
            for name, labels in (("sender", senders), ("receiver", named))
        ]
        return pb.GridShape(first_cell=first_cell, component="paths", axes=axes)

    def check_supported(self) -> None:
        """Refuses a model that does not write and read as paths assume.

        Raises:
            UnavailableSiteError: says why.
        """
        if reason := why_no_paths(self._model):
            raise UnavailableSiteError(
                f"no path of {self._model.description.model_id} can be patched: {reason}", field=self._path
            )

    def plan(self, number: int, pair: Pair) -> PathPlan:
        """The edits of a cell."""
        return self._plan(number, pair, self._value.expression(self._first_cell + number, pair))

    def generation_plan(
        self, number: int, pair: Pair, new_tokens: int, given: Mapping[ActivationKey, mx.array]
    ) -> None:
        """None: what is frozen is that of the prompt."""

    def batch_key(self, number: int, pair: Pair) -> bytes:
        """Any that are edited row by row."""
        return ROW_EDITS

    def extent(self, number: int, pair: Pair) -> EditExtent:
        """From the first receiver that is reached, and the first position at which the sender writes and one reads."""
        sender, reached = self._at(number)
        layers = self._model.layout.num_layers
        boundary = min(boundary_of(receiver.point.component, receiver.point.layer, layers) for receiver in reached)
        return EditExtent(
            boundary, min(min(_shared_positions(sender, receiver, pair), default=pair.length) for receiver in reached)
        )

    def sample_plans(self, pair: Pair) -> Iterator[PathPlan]:
        """Every sender to every entry, checked."""
        try:
            for number in range(self.count):
                for value in self._value.samples(self._first_cell + number, pair):
                    plan = self._plan(number, pair, value)
                    check_donors(plan.edit, pair)
                    yield plan
        except MLXIntegrationError as error:
            field = self._value.request_field(error.field)
            error.field = field.replace(f"{self._path}.select", f"{self._path}.senders", 1)
            raise

    def _plan(self, number: int, pair: Pair, value: intervention_pb2.Expression) -> PathPlan:
        sender, reached = self._at(number)
        select = site_pb2.Selector(heads=sender.heads, rows=[pair.edited_row])
        if sender.positions:
            select.positions.list.positions.extend(sender.positions)
        edit = intervention_pb2.Intervention(
            intervention_id=sender.label, site=sender.point.to_message(), select=select, value=value
        )
        edits = EditPlan(self._model, [edit], pair.lengths, 0, self._resolve, paths=[self._path])
        return PathPlan(self._model.layout, self._edge_graph, pair, sender, edits, reached, self._recomputes_mlps)

    def _at(self, number: int) -> tuple[Sender, list[Receiver]]:
        """The sender of a cell, and the receivers that it reaches, in the order in which they read."""
        of_sender, of_entry = divmod(number, len(self._receivers))
        sender = self._senders[of_sender]
        reached = [receiver for receiver in self._receivers[of_entry] if receiver.is_reached_by(sender)]
        return sender, sorted(reached, key=lambda receiver: receiver.order)

    def _edge_graph(self) -> EdgeGraph:
        if self._graph is None:
            self._graph = EdgeGraph(self._model.layout)
        return self._graph

    def _check_positions(self, pair: Pair) -> None:
        owner = f"the edited prompt of pair {pair.index} has"
        for index, nodes in enumerate(self._receivers):
            for at, receiver in enumerate(nodes):
                if receiver.positions:
                    field = f"{self._path}.receivers[{index}].nodes[{at}].positions"
                    check_indices(receiver.positions, pair.length, "position", field, owner)
        for number in range(self.count):
            sender, reached = self._at(number)
            if sender.positions:
                check_indices(sender.positions, pair.length, "position", f"{self._path}.senders", owner)
            if not any(_shared_positions(sender, receiver, pair) for receiver in reached):
                entry = number % len(self._receivers)
                raise InvalidRequestError(
                    f"{sender.label} writes at other positions than those at which receivers[{entry}] reads: no path "
                    "leads there",
                    field=f"{self._path}.receivers[{entry}]",
                )


def _shared_positions(sender: Sender, receiver: Receiver, pair: Pair) -> set[int]:
    """Positions at which the sender writes and the receiver reads."""
    sent, read = (
        {position % pair.length for position in node.positions} or set(range(pair.length))
        for node in (sender, receiver)
    )
    return sent & read


def _unique_labels(labels: Sequence[str]) -> list[str]:
    """Labels that differ: a second one of a name ends with #2."""
    found: list[str] = []
    for label in labels:
        count = sum(other == label for other in labels[: len(found)])
        found.append(f"{label}#{count + 1}" if count else label)
    return found
