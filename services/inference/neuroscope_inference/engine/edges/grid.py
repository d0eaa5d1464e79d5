"""A grid of sets of edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import mlx.core as mx
import numpy as np

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2
from neuroscope.vocabulary.sites import COMPONENTS
from neuroscope_inference.engine.attributions.graph import EdgeGraph
from neuroscope_inference.engine.attributions.nodes import INPUT
from neuroscope_inference.engine.edges.model_graph import check_edges, edge_graph
from neuroscope_inference.engine.edges.plan import EdgePlan, SenderOutputs, compute_outputs
from neuroscope_inference.engine.edges.sets import EdgeSets, Mask
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey
from neuroscope_inference.engine.sweeps.cells import EditExtent, boundary_of, check_donors
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, Pair
from neuroscope_inference.engine.sweeps.replacement import ReplacementValue


class EdgeGrid:
    """The sets of edges of one entry of a request.

    Args:
        model: what is edited.
        message: the entry.
        path: of the entry in the request.
        first_cell: number of its first cell in the request.
        pairs: which it is run on.
        resolve: finds tensors.

    Raises (from the constructor):
        UnavailableSiteError: the model has no graph; says why.
        UnknownSiteError: a component is none.
        InvalidRequestError: a node is none of the graph, an edge is none, there is no value, or edits make the run that
            is edited.
    """

    def __init__(
        self,
        model: LoadedModel,
        message: pb.EdgeGrid,
        path: str,
        first_cell: int,
        pairs: Sequence[Pair],
        resolve: ResolveTensor,
    ) -> None:
        self._model, self._path, self._first_cell, self._resolve = model, path, first_cell, resolve
        self._graph = edge_graph(model, path)
        self._value = ReplacementValue(message.value, f"{path}.value", COMPONENTS[INPUT.component])
        self._sets = EdgeSets(self._graph, message, path)
        self._edge_costs = _EdgeCosts(self._graph)
        self._costs = [self._edge_costs.cost(self._sets.changed(number)) for number in range(self._sets.count)]
        for pair in pairs:
            if pair.corruptions and pair.edited_row == CORRUPTED:
                raise InvalidRequestError(
                    "edges are changed in runs of prompts alone: edit the clean run", field=pair.corruptions[0].path
                )
        self._edit: tuple[tuple[int, bytes], EditPlan] | None = None
        self._outputs: tuple[tuple[int, bytes], SenderOutputs] | None = None
        """What senders write in a pair with a value: cells of one pair and value come after each other."""

    @property
    def count(self) -> int:
        """How many cells."""
        return self._sets.count

    def shape(self, first_cell: int) -> pb.GridShape:
        """One axis, with the names of edges or cells."""
        return pb.GridShape(first_cell=first_cell, component="edges", axes=[self._sets.axis()])

    def check_supported(self) -> None:
        """Refuses a model whose edges do not add up.

        Raises:
            UnavailableSiteError: says why.
        """
        check_edges(self._model, self._path)

    def plan(self, number: int, pair: Pair) -> EdgePlan:
        """The changed edges of a cell."""
        return self._plan(number, pair, self._value.expression(self._first_cell + number, pair))

    def generation_plan(
        self, number: int, pair: Pair, new_tokens: int, given: Mapping[ActivationKey, mx.array]
    ) -> None:
        """None: a sweep that goes on has no sets of edges."""

    def batch_key(self, number: int, pair: Pair) -> bytes:
        """Cells of one batch have the same value; those that change nothing are by themselves, and none is run."""
        if self._costs[number].boundary == self._edge_costs.unreached:
            return self._path.encode()
        return self._key(self._value.expression(self._first_cell + number, pair))

    def extent(self, number: int, pair: Pair) -> EditExtent:
        """From the first receiver of a changed edge, and the first position where senders may write something else."""
        extent = self._costs[number]
        if extent.boundary == self._edge_costs.unreached:
            return EditExtent(self._model.layout.num_layers, pair.length)
        expression = self._value.expression(self._first_cell + number, pair)
        return EditExtent(
            extent.boundary, _first_different_position(pair, expression), extent.work, extent.position_bytes
        )

    def sample_plans(self, pair: Pair) -> Iterator[EdgePlan]:
        """Every value, checked; the sets are, too, once they have been read."""
        try:
            for value in self._value.samples(self._first_cell, pair):
                plan = self._plan(0, pair, value)
                check_donors(plan.edit, pair)
                yield plan
        except MLXIntegrationError as error:
            if error.field.startswith(f"{self._path}.select"):  # all positions of runs that are not equally long
                error.field = f"pairs[{pair.index}]"
            error.field = self._value.request_field(error.field)
            raise

    def _plan(self, number: int, pair: Pair, value: intervention_pb2.Expression) -> EdgePlan:
        key = pair.index, self._key(value)
        if self._edit is None or self._edit[0] != key:
            self._edit = key, self._edits(pair, value)

        def write(plan: EdgePlan, given: Mapping[ActivationKey, mx.array]) -> SenderOutputs:
            if self._outputs is None or self._outputs[0] != key:
                self._outputs = None  # nobody holds those of two pairs
                self._outputs = key, compute_outputs(plan, given, pair.length)
            return self._outputs[1]

        return EdgePlan(self._graph, self._sets.changed(number), self._edit[1], pair.edited_row, write)

    def _edits(self, pair: Pair, value: intervention_pb2.Expression) -> EditPlan:
        """Puts a value in the place of every sender's output."""
        states = self._model.layout.states
        edits = [
            intervention_pb2.Intervention(
                intervention_id=str(states[point].point),
                site=states[point].point.to_message(),
                select=site_pb2.Selector(rows=[pair.edited_row]),
                value=value,
            )
            for point in self._graph.sender_points
        ]
        return EditPlan(self._model, edits, pair.lengths, 0, self._resolve, paths=[self._path] * len(edits))

    def _key(self, value: intervention_pb2.Expression) -> bytes:
        return self._path.encode() + value.SerializeToString(deterministic=True)


class _EdgeCosts:
    """What a set of edges costs, and where it begins.

    Args:
        graph: the edges.
    """

    def __init__(self, graph: EdgeGraph) -> None:
        layout = graph.layout
        self.unreached = layout.num_layers + 1
        points = [
            graph.layout.states[part.point].point for reading in graph.receiver_groups for part in reading.projections
        ]
        counts = [
            1 if part.matrix is None else graph.head_count(part.point)
            for reading in graph.receiver_groups
            for part in reading.projections
        ]
        readers = [boundary_of(point.component, point.layer, layout.num_layers) for point in points]
        self._readers = np.repeat(readers, counts)
        self._parts = np.repeat(np.arange(len(counts)), counts)
        self._writers = np.array([sender.site.layer if row else -1 for row, sender in enumerate(graph.senders)])
        self._width = layout.state(INPUT).axes_extents[-1]

    def cost(self, changed: Mask) -> EditExtent:
        """Of a cell; its first position is not known here."""
        read = changed.any(axis=0)
        if not read.any():
            return EditExtent(self.unreached, 0)
        boundary = int(self._readers[read].min())
        writes = changed.any(axis=1)
        anew = int((writes & (self._writers >= boundary)).sum())
        widest = int(np.bincount(self._parts[read]).max())
        # A block multiplies a position with about 12 d_model^2 numbers, a receiver with its senders and its matrix.
        work = float(read.sum()) * (int(writes.sum()) + anew + 64) / (12 * self._width)
        return EditExtent(boundary, 0, work, 4 * self._width * (anew + 6 * widest))


def _first_different_position(pair: Pair, value: intervention_pb2.Expression) -> int:
    """The first position at which a value can differ from what the edited run has."""
    other = CORRUPTED if pair.edited_row == CLEAN else CLEAN
    is_other_run = value.WhichOneof("node") == "other_row" and value.other_row.row == other
    if not is_other_run or pair.corruptions:
        return 0
    alike = np.array(pair.prompt(CLEAN)) == np.array(pair.prompt(CORRUPTED))
    return pair.length if alike.all() else int(alike.argmin())
