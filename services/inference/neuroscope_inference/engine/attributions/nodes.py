"""Scores of places: attribution patching, and gradient x activation.

The metric's first-order change, were an activation replaced by that of the other run: Nanda 2023, "Attribution
patching: activation patching at industrial scale"; Syed et al. 2023 (arXiv:2310.10348). With several steps the gradient
is the mean over inputs between both runs, as in EAP-IG (Hanna et al. 2024, arXiv:2403.17806). Of a dictionary the
features are nodes, and a feature's gradient is that at the site along its decoder row (Marks et al. 2024,
arXiv:2403.19647).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS, Point
from neuroscope_inference.engine.attributions.gradients import PassResult
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.pair import Pair
from neuroscope_inference.engine.sweeps.points import resolve_points

INPUT = Point("resid_pre", 0)
"""What enters the first block: inputs between two runs lie on a straight line here."""
_CHOICES = ("expert_indices", "router_logits")


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """A component in some layers, and the axes that its scores have.

    Args:
        points: in their order.
        indices: of the points.
        axes: of the component.
        kept: which of them scores have, the batch first.
        extents: of these, -1 for positions.
        dictionary: whose features they are, if they are features; its point is compared, its output probed.
    """

    points: Sequence[Point]
    indices: Sequence[PointIndex]
    axes: Sequence[tensor_pb2.Axis.ValueType]
    kept: Sequence[tensor_pb2.Axis.ValueType]
    extents: Sequence[int]
    dictionary: Dictionary | None = None

    @property
    def activation_points(self) -> Sequence[PointIndex]:
        """Points whose activations are compared; in the order of `indices`, whose gradients go with them."""
        return self.indices if self.dictionary is None else [self.dictionary.index]

    @property
    def has_layer(self) -> bool:
        """Whether scores have a layer axis."""
        if self.dictionary is not None:
            return False
        return COMPONENTS[self.points[0].component].has_layer

    def spec(self, plan_index: int) -> tensor_pb2.TensorSpec:
        """What is sent: (1, layers, ...)."""
        batch, *others = self.kept
        layers = [tensor_pb2.AXIS_LAYER] if self.has_layer else []
        return tensor_pb2.TensorSpec(
            plan_index=plan_index,
            site=site_pb2.Site(component=self.points[0].component, side=self.points[0].to_message().side),
            dtype=tensor_pb2.DATA_TYPE_FLOAT32,
            axes=[batch, *layers, *others],
            shape=[1, *([len(self.points)] if layers else []), *self.extents[1:]],
            dictionary_id="" if self.dictionary is None else self.dictionary.description.dictionary_id,
        )

    def contract(self, edited: mx.array, other: mx.array | None, gradient: mx.array) -> mx.array:
        """The scores of one point (rows, ...), float32.

        Args:
            edited: its activation in the edited run.
            other: in the other run; None: the activation itself is scored, not its difference.
            gradient: of the metric by what is edited.
        """
        if self.dictionary is None:
            difference = edited if other is None else other - edited
            product = difference.astype(mx.float32) * gradient.astype(mx.float32)
        else:
            features = self.dictionary.encode(edited)
            difference = features if other is None else self.dictionary.encode(other) - features
            product = difference * self.dictionary.feature_gradient(gradient, edited)
        summed = [index for index, axis in enumerate(self.axes) if axis not in self.kept]
        return product.sum(axis=summed) if summed else product


@dataclass(frozen=True, slots=True)
class NodeAttribution:
    """Scores of nodes that a request asks for.

    Args:
        model: what has them.
        groups: a tensor each.
        steps: inputs that gradients are taken at.
        compares: whether activations are compared with those of the other run.
    """

    model: LoadedModel
    groups: Sequence[NodeGroup]
    steps: int
    compares: bool

    @property
    def gradient_points(self) -> Sequence[PointIndex]:
        """Every point of every group, once."""
        return list(dict.fromkeys(index for group in self.groups for index in group.indices))

    @property
    def activation_points(self) -> Sequence[PointIndex]:
        """Every point whose activation is looked at, once."""
        return list(dict.fromkeys(index for group in self.groups for index in group.activation_points))

    @property
    def extra_points(self) -> Sequence[PointIndex]:
        """None."""
        return ()

    @property
    def interpolation_point(self) -> PointIndex:
        """What enters the first block."""
        return self.model.layout.index[INPUT]

    @property
    def needs_other_run(self) -> bool:
        """For attribution patching, not for gradient x activation."""
        return self.compares

    def fractions(self) -> Sequence[float]:
        """Of equal intervals the beginnings."""
        return [step / self.steps for step in range(self.steps)]

    def describe_tensors(self, plan: pb.AttributionPlan) -> None:
        """A tensor for each group."""
        for plan_index, group in enumerate(self.groups):
            plan.tensors.tensors.append(group.spec(plan_index))
            layers = [point.layer for point in group.points if point.layer is not None]
            plan.layers.append(pb.AttributedLayers(plan_index=plan_index, layers=layers))

    def start(self, other: PassResult | None) -> NodeScores:
        """The scores of a batch."""
        return NodeScores(self, other.activations if self.compares and other is not None else None)


@dataclass(slots=True)
class NodeScores:
    """Scores of one batch.

    Args:
        kind: what is scored.
        other: activations of the other run; None: none are compared.
    """

    method: NodeAttribution
    other: Mapping[PointIndex, mx.array] | None
    _edited: Mapping[PointIndex, mx.array] = field(default_factory=dict[PointIndex, mx.array])
    _gradients: dict[PointIndex, mx.array] = field(default_factory=dict[PointIndex, mx.array])

    def add(self, passed: PassResult, edited: PassResult) -> None:
        """Sums the gradients."""
        self._edited = edited.activations
        for point, gradient in passed.gradients.items():
            held = self._gradients.get(point)
            self._gradients[point] = gradient if held is None else held + gradient
        mx.eval(self._gradients)

    def finish(self) -> Sequence[mx.array]:
        """The contraction of differences with the mean gradient."""
        found: list[mx.array] = []
        for group in self.method.groups:
            scores = [
                group.contract(
                    self._edited[compared],
                    None if self.other is None else self.other[compared],
                    self._gradients[point] / self.method.steps,
                )
                for compared, point in zip(group.activation_points, group.indices, strict=True)
            ]
            found.append(mx.stack(scores, axis=1) if group.has_layer else scores[0])
        mx.eval(found)
        return found


def parse_nodes(
    message: pb.NodeAttribution, model: LoadedModel, pairs: Sequence[Pair], *, each_pair: bool
) -> NodeAttribution:
    """The scores of a request.

    Raises:
        UnknownSiteError, UnavailableSiteError: a layer does not have the component, or it has no gradient.
        InvalidRequestError: an axis that the component does not have, or positions that differ from pair to pair.
    """
    sites = message.sites or _default_sites(model)
    groups = [_parse_group(site, model, f"nodes.sites[{index}]") for index, site in enumerate(sites)]
    lengths = sorted({pair.length for pair in pairs})
    for index, group in enumerate(groups):
        if tensor_pb2.AXIS_POSITION in group.kept and len(lengths) > 1 and not each_pair:
            raise InvalidRequestError(
                f"the prompts have {lengths[0]} to {lengths[-1]} tokens, so no mean over pairs keeps positions apart: "
                "ask for scores of each pair, or not by position",
                field=f"nodes.sites[{index}].by_position",
            )
    if message.gradient_times_activation and message.steps > 1:
        raise InvalidRequestError(
            "gradient x activation is of one run: there is no line of inputs to take steps on", field="nodes.steps"
        )
    return NodeAttribution(model, groups, message.steps or 1, not message.gradient_times_activation)


def _default_sites(model: LoadedModel) -> list[pb.NodeSite]:
    """Outputs of heads and MLPs, and the input: all that writes into the residual stream."""
    found = [pb.NodeSite(site=INPUT.to_message(), by_position=True)]
    for component in ("head_output", "mlp_out"):
        if any(not state.reason for state in model.layout.states if state.point.component == component):
            site = site_pb2.Site(component=component)
            found.append(pb.NodeSite(site=site, by_position=True, by_head=component == "head_output"))
    return found


def _parse_feature_group(message: pb.NodeSite, model: LoadedModel, path: str) -> NodeGroup:
    """Features of a dictionary."""
    dictionary = model.require_dictionary(message.dictionary_id, f"{path}.dictionary_id")
    check_has_gradient(model, dictionary.output, f"{path}.dictionary_id")
    if message.HasField("site") or message.layers or message.by_head:
        name = "site" if message.HasField("site") else "layers" if message.layers else "by_head"
        raise InvalidRequestError("features are at the site of their dictionary, of all heads", field=f"{path}.{name}")
    axes = [tensor_pb2.AXIS_BATCH, tensor_pb2.AXIS_POSITION, tensor_pb2.AXIS_FEATURE]
    extents = dict(zip(axes, (1, -1, dictionary.feature_count), strict=True))
    kept = [axis for axis, is_kept in zip(axes, (True, message.by_position, message.by_unit), strict=True) if is_kept]
    points, indices = [dictionary.output], [dictionary.output_index]
    return NodeGroup(points, indices, axes, kept, [extents[axis] for axis in kept], dictionary)


def _parse_group(message: pb.NodeSite, model: LoadedModel, path: str) -> NodeGroup:
    if message.dictionary_id:
        return _parse_feature_group(message, model, path)
    points = resolve_points(model, message.site, message.layers, path)
    for point in points:
        check_has_gradient(model, point, f"{path}.site.component")
    component = COMPONENTS[points[0].component]
    axes = component.axes
    kept = [tensor_pb2.AXIS_BATCH]
    for is_kept, axis, name in (
        (message.by_position, tensor_pb2.AXIS_POSITION, "by_position"),
        (message.by_head, tensor_pb2.AXIS_HEAD, "by_head"),
        (message.by_unit, axes[-1], "by_unit"),
    ):
        if is_kept and (axis not in axes or axis == tensor_pb2.AXIS_KEY_POSITION):
            what = "heads" if name == "by_head" else "units"
            raise InvalidRequestError(f"{component.name} has no {what}", field=f"{path}.{name}")
        if is_kept:
            kept.append(axis)
    kept = [axis for axis in axes if axis in kept]
    indices = [model.layout.index[point] for point in points]
    shapes = {model.layout.states[index].axes_extents for index in indices}
    extents = dict(zip(axes, next(iter(shapes)), strict=True)) | {tensor_pb2.AXIS_POSITION: -1}
    if len({tuple(shape[axes.index(axis)] for axis in kept) for shape in shapes}) > 1:
        raise InvalidRequestError(
            f"{component.name} differs in shape from layer to layer: name layers that are alike", field=f"{path}.layers"
        )
    return NodeGroup(points, indices, axes, kept, [extents[axis] for axis in kept])


def check_has_gradient(model: LoadedModel, point: Point, field: str) -> None:
    """Refuses a point whose gradient is none, or not what it would be taken for.

    Raises:
        UnavailableSiteError: says why.
    """
    state = model.layout.state(point)
    if point.component in _CHOICES:
        reason = "it decides which experts are chosen, and a choice has no gradient"
    elif not state.is_writable:
        reason = "the model computes nothing from it"
    elif not mx.issubdtype(state.dtype, mx.floating):
        reason = f"its numbers are of the type {state.dtype}"
    else:
        return
    raise UnavailableSiteError(
        f"no gradient is taken at {point} of {model.description.model_id}: {reason}", field=field
    )
