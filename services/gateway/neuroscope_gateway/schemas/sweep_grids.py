"""What is swept, as JSON: grids of places, of paths and of edges, and single cells."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from neuroscope.experiments.edges import of_named, to_edge_grid
from neuroscope.experiments.paths import to_receivers, to_senders
from neuroscope.interventions.forms import InterventionForm
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.rest_params import below, rest_params
from neuroscope_gateway.schemas.prompt_pairs import intervention_messages
from neuroscope_gateway.schemas.sweep_axes import Axis, Indices, axis_message
from neuroscope_gateway.schemas.sweep_values import SweepValue, value_message


class SweepFeatures(StrictModel):
    """Features of a dictionary."""

    dictionary_id: Text = Field(min_length=1)
    axis: Axis = "each"


class SweepGrid(StrictModel):
    """Cells as a product: layers x heads x positions x units x features."""

    component: Text = ""
    """Any name of a component; one that carries its layer sweeps that layer alone. Absent with features."""
    layers: Indices | None = None
    """A cell for each; absent: every layer that has the component."""
    heads: Axis | None = None
    """Absent: all together."""
    positions: Axis | None = None
    """Absent: all together. Negative ones count from the end."""
    units: Axis | None = None
    """Along the last axis: neurons, experts. Absent: all together."""
    features: SweepFeatures | None = None
    """Features in place of the whole activation of a component; they get a number or those of the other run."""
    value: SweepValue = "other_run"
    """What is put there."""
    layer_window: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Layers around its own that each cell edits together."""

    def to_message(self, path: str) -> pb.SweepGrid:
        """As the contract carries it."""
        return pb.SweepGrid(
            site=site_pb2.Site(component=self.component) if self.component or self.features is None else None,
            layers=self.layers or (),
            heads=axis_message(self.heads),
            positions=axis_message(self.positions),
            units=axis_message(self.units),
            value=value_message(self.value, f"{path}.value"),
            layer_window=self.layer_window,
            features=None
            if self.features is None
            else pb.SweepFeatures(dictionary_id=self.features.dictionary_id, axis=axis_message(self.features.axis)),
        )


class PathGrid(StrictModel):
    """Direct paths, senders x receivers (Wang et al. 2022)."""

    senders: Annotated[list[Text], Field(min_length=1, max_length=10_000)]
    """input, a3.h5, a3, m3; heads and mlps are those of every layer."""
    receivers: Annotated[list[Text | list[Text]], Field(min_length=1, max_length=10_000)] = Field(["logits"])
    """a9.h6<q>, a9.h6<k>, a9.h6<v>, m9, logits; those in a list of their own read together."""
    sender_positions: Indices | None = None
    """Where senders' outputs are replaced; absent: everywhere."""
    receiver_positions: Indices | None = None
    """Where receivers read them; absent: everywhere."""
    recompute_mlps: bool = False
    """MLPs between are computed again, so that paths go through them, too."""
    value: SweepValue = "other_run"
    """What senders write instead."""

    def to_message(self, path: str) -> pb.PathGrid:
        """As the contract carries it.

        Raises:
            InvalidRequestError: a name means nothing.
        """
        with rest_params(below(path)):
            senders = to_senders(self.senders, self.sender_positions)
            receivers = to_receivers(self.receivers, self.receiver_positions)
        value = value_message(self.value, f"{path}.value")
        return pb.PathGrid(senders=senders, receivers=receivers, value=value, recompute_mlps=self.recompute_mlps)


class EdgeCell(StrictModel):
    """A set of edges."""

    name: Text = ""
    """In results."""
    edges: Annotated[list[Text], Field(max_length=100_000)]
    """Such as a0.h3->m1, input->a1.h0<q>, m1->logits; none: nothing is changed."""


class EdgeGrid(StrictModel):
    """Sets of edges of the model's graph, a cell each: over its changed edges a receiver reads what senders write with
    the value, all else is computed anew."""

    cells: Annotated[list[EdgeCell], Field(min_length=1, max_length=10_000)] | None = None
    """The changed edges of each cell; absent: each edge of the graph alone."""
    value: SweepValue = "other_run"
    """What senders write over changed edges."""

    def to_message(self, path: str) -> pb.EdgeGrid:
        """As the contract carries it.

        Raises:
            InvalidRequestError: a name means nothing.
        """
        value = value_message(self.value, f"{path}.value")
        if self.cells is None:
            return to_edge_grid(None, value)
        with rest_params(below(path)):
            return of_named([(cell.name, cell.edges) for cell in self.cells], value)


class SweepCell(StrictModel):
    """A cell of its own: one edit or several at a time."""

    name: Text = ""
    """In results."""
    interventions: Annotated[list[InterventionForm], Field(min_length=1, max_length=256)]
    """The edits, as in chat requests; they select no rows and no steps."""

    def to_message(self, path: str) -> pb.SweepCell:
        """As the contract carries it."""
        return pb.SweepCell(
            name=self.name, interventions=intervention_messages(self.interventions, f"{path}.interventions")
        )
