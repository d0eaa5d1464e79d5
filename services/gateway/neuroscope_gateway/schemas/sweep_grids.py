"""Grids of a sweep: of sites, paths and edges, and single cells."""

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
    """A grid of cells: layers x heads x positions x units x features."""

    component: Text = ""
    """A component by any name; a name with a layer sweeps that layer only. Not with `features`."""
    layers: Indices | None = None
    """Layer indices, a cell for each; default: every layer with the component."""
    heads: Axis | None = None
    """Default: all together."""
    positions: Axis | None = None
    """Default: all together. Negative indices count from the end."""
    units: Axis | None = None
    """Indices of the last axis, such as neurons or experts. Default: all together."""
    features: SweepFeatures | None = None
    """Features of a dictionary instead of a component; the value is a number or that of the other run."""
    value: SweepValue = "other_run"
    """The replacement value."""
    layer_window: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Number of layers that each cell patches together, centred on its own."""

    def to_message(self, path: str) -> pb.SweepGrid:
        """This object as a message of the contract."""
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
    """A grid of direct paths: senders x receivers (Wang et al. 2022)."""

    senders: Annotated[list[Text], Field(min_length=1, max_length=10_000)]
    """Senders: `input`, `a3.h5`, `a3`, `m3`; `heads` and `mlps` are those of every layer."""
    receivers: Annotated[list[Text | list[Text]], Field(min_length=1, max_length=10_000)] = Field(["logits"])
    """Receivers: `a9.h6<q>`, `a9.h6<k>`, `a9.h6<v>`, `m9`, `logits`; an inner list is patched together."""
    sender_positions: Indices | None = None
    """Positions where outputs of senders are replaced; default: all."""
    receiver_positions: Indices | None = None
    """Positions where receivers read them; default: all."""
    recompute_mlps: bool = False
    """Recomputes MLPs between sender and receiver, so that paths also go through them."""
    value: SweepValue = "other_run"
    """The replacement of the senders' outputs."""

    def to_message(self, path: str) -> pb.PathGrid:
        """This object as a message of the contract.

        Raises:
            InvalidRequestError: a name is unknown.
        """
        with rest_params(below(path)):
            senders = to_senders(self.senders, self.sender_positions)
            receivers = to_receivers(self.receivers, self.receiver_positions)
        value = value_message(self.value, f"{path}.value")
        return pb.PathGrid(senders=senders, receivers=receivers, value=value, recompute_mlps=self.recompute_mlps)


class EdgeCell(StrictModel):
    """A set of edges."""

    name: Text = ""
    """Name in results."""
    edges: Annotated[list[Text], Field(max_length=100_000)]
    """Edges such as `a0.h3->m1`, `input->a1.h0<q>`, `m1->logits`; an empty list patches nothing."""


class EdgeGrid(StrictModel):
    """Sets of edges of the model's graph, one cell each. Patched edges carry the value, everything else is
    recomputed."""

    cells: Annotated[list[EdgeCell], Field(min_length=1, max_length=10_000)] | None = None
    """The patched edges of each cell; default: each edge of the graph alone."""
    value: SweepValue = "other_run"
    """The value that patched edges carry."""

    def to_message(self, path: str) -> pb.EdgeGrid:
        """This object as a message of the contract.

        Raises:
            InvalidRequestError: a name is unknown.
        """
        value = value_message(self.value, f"{path}.value")
        if self.cells is None:
            return to_edge_grid(None, value)
        with rest_params(below(path)):
            return of_named([(cell.name, cell.edges) for cell in self.cells], value)


class SweepCell(StrictModel):
    """A single cell: one or several edits."""

    name: Text = ""
    """Name in results."""
    interventions: Annotated[list[InterventionForm], Field(min_length=1, max_length=256)]
    """Interventions as in chat requests, without rows and steps."""

    def to_message(self, path: str) -> pb.SweepCell:
        """This object as a message of the contract."""
        return pb.SweepCell(
            name=self.name, interventions=intervention_messages(self.interventions, f"{path}.interventions")
        )
