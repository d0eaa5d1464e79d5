"""Senders and receivers of paths: which points they are, what they are called, and which reaches which.

Components are numbered in the order in which they write and read: the attention of layer l is 2 l, its MLP 2 l + 1,
what enters the first block -1, what the final norm reads twice the number of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS, Point, resolve
from neuroscope_inference.engine.layout import Layout
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.paths.residual_writes import mlp_input_stream
from neuroscope_inference.engine.sweeps.points import check_indices, resolve_points

SENDERS = ("head_output", "attn_out", "attn_contrib", "mlp_out", "mlp_contrib", "resid_pre")
RECEIVERS = ("q_proj", "k_proj", "value", "mlp_out", "logits")
_OF_HEADS = {"q_proj": "q", "k_proj": "k", "value": "v"}


@dataclass(frozen=True, slots=True)
class Sender:
    """What writes a path.

    Args:
        point: whose activation gets the value.
        heads: of the point; empty: all.
        positions: as the request names them; empty: all.
    """

    point: Point
    heads: Sequence[int]
    positions: Sequence[int]

    @property
    def order(self) -> int:
        """When it writes."""
        layer = self.point.layer or 0
        if self.point.component == "resid_pre":
            return -1
        return 2 * layer + int(self.point.component.startswith("mlp"))

    @property
    def label(self) -> str:
        """input, a0.h3, a0, m0."""
        if self.point.component == "resid_pre":
            return "input"
        letter = "m" if self.point.component.startswith("mlp") else "a"
        return f"{letter}{self.point.layer}{_head_suffix(self.heads)}"


@dataclass(frozen=True, slots=True)
class Receiver:
    """What reads a path.

    Args:
        point: what is made of the stream there: a projection, the MLP's input, or the last stream for the logits.
        stream: where the stream is read.
        order: when it reads.
        heads: of the point; empty: all, or none to select.
        positions: as the request names them; empty: all.
    """

    point: Point
    stream: Point
    order: int
    heads: Sequence[int]
    positions: Sequence[int]

    def is_reached_by(self, sender: Sender) -> bool:
        """Whether the sender writes before it reads."""
        return sender.order < self.order

    @property
    def label(self) -> str:
        """a1.h0<q>, a1<k>, m1, logits."""
        if self.point.component == "resid_post":
            return "logits"
        if self.point.component == "mlp_out":
            return f"m{self.point.layer}"
        return f"a{self.point.layer}{_head_suffix(self.heads)}<{_OF_HEADS[self.point.component]}>"


def parse_senders(
    model: LoadedModel, messages: Sequence[pb.PathSender], sets: Sequence[Sequence[Receiver]], path: str
) -> list[Sender]:
    """The senders of a grid, a cell each.

    Raises:
        InvalidRequestError: there are none, a head does not exist, or one reaches no receiver of an entry.
        UnknownSiteError, UnavailableSiteError: a component is none of a path's, or the model does not have it.
    """
    if not messages:
        raise InvalidRequestError("a path begins with a sender", field=path)
    found: list[Sender] = []
    for index, message in enumerate(messages):
        field = f"{path}[{index}]"
        points = _sender_points(model, message, field)
        positions = _positions(message, field)
        heads = _heads(model, message, points, field)
        is_open = len(points) > 1 and not message.layers
        new = [Sender(point, chosen, positions) for point in points for chosen in heads]
        missed = {sender.point: _first_unreached(sender, sets) for sender in new}
        kept = [sender for sender in new if missed[sender.point] is None] if is_open else new
        for sender in kept or new:
            entry = missed[sender.point]
            if entry is not None:
                names = ", ".join(receiver.label for receiver in sets[entry])
                raise InvalidRequestError(
                    f"{sender.label} writes behind what {names} reads (receivers[{entry}]): no path leads there",
                    field=field,
                )
        found += kept
    return found


def parse_receivers(model: LoadedModel, messages: Sequence[pb.PathReceivers], path: str) -> list[list[Receiver]]:
    """The receivers of a grid, an entry for each cell.

    Raises:
        InvalidRequestError: there are none, a head does not exist, or one is there twice.
        UnknownSiteError, UnavailableSiteError: a component is none of a path's, or the model does not have it.
    """
    if not messages:
        raise InvalidRequestError("a path ends with a receiver", field=path)
    found: list[list[Receiver]] = []
    for index, message in enumerate(messages):
        if not message.nodes:
            raise InvalidRequestError("there is no receiver", field=f"{path}[{index}].nodes")
        nodes = [_parse_receiver(model, node, f"{path}[{index}].nodes[{at}]") for at, node in enumerate(message.nodes)]
        for at, node in enumerate(nodes):
            field = f"{path}[{index}].nodes[{at}]"
            if node.label == "logits" and len(nodes) > 1:
                raise InvalidRequestError(
                    "the logits' input is replaced behind all others, whose change would be lost: give the logits an "
                    "entry of their own",
                    field=field,
                )
            for other in nodes[:at]:
                shares_heads = not node.heads or not other.heads or set(node.heads) & set(other.heads)
                if node.point == other.point and shares_heads:
                    raise InvalidRequestError(f"{node.label} is named twice", field=field)
        found.append(nodes)
    return found


def _sender_points(model: LoadedModel, message: pb.PathSender, field: str) -> list[Point]:
    site = f"{field}.site.component"
    named = resolve(message.site, model.layout.num_layers, field=f"{field}.site")
    first = named[0]
    if first.component not in SENDERS or first.is_input:
        hint = "; what enters the first block is resid_pre of layer 0" if first.component == "embedding" else ""
        raise InvalidRequestError(f"{first} sends no path{hint}", field=site, valid=SENDERS)
    if first.component == "resid_pre":
        layers = message.layers or ([first.layer] if len(named) == 1 else [0])
        if list(layers) != [0]:
            raise InvalidRequestError("of the residual stream its beginning alone sends: layer 0", field=site)
        model.require_point(Point("resid_pre", 0), site)
        return [Point("resid_pre", 0)]
    return resolve_points(model, message.site, message.layers, field)


def _parse_receiver(model: LoadedModel, message: pb.PathReceiver, field: str) -> Receiver:
    layout, site = model.layout, f"{field}.site.component"
    named = resolve(message.site, layout.num_layers, field=f"{field}.site")
    first = named[0]
    is_mlp = first.component == "mlp_out"
    if first.component not in RECEIVERS or (first.is_input and not is_mlp):
        raise InvalidRequestError(f"{first} receives no path", field=site, valid=RECEIVERS)
    positions = _positions(message, field)
    if first.component == "logits":
        end = Point("resid_post", layout.num_layers - 1)
        model.require_point(end, site)
        _check_no_heads(message, "logits have", field)
        return Receiver(end, end, 2 * layout.num_layers, (), positions)
    if len(named) > 1:
        raise InvalidRequestError(f"the layer of {first.component} is missing", field=f"{field}.site.layer")
    layer = first.layer or 0
    if is_mlp:
        if not first.is_input:
            raise InvalidRequestError(
                "an MLP receives at its input: the side is SIDE_INPUT", field=f"{field}.site.side"
            )
        _check_no_heads(message, "an MLP has", field)
        stream = mlp_input_stream(layout, layer)
        for point in (first, stream):
            _check_writable(model, point, site)
        return Receiver(first, stream, 2 * layer + int(stream.component == "resid_mid"), (), positions)
    stream = Point("resid_pre", layer)
    for point in (first, stream):
        _check_writable(model, point, site)
    heads: Sequence[int] = ()
    if message.heads:
        count = _head_count(layout, first)
        heads = check_indices(message.heads, count, "head", f"{field}.heads", f"{first} has")
    return Receiver(first, stream, 2 * layer, heads, positions)


def _check_writable(model: LoadedModel, point: Point, field: str) -> None:
    if not model.require_point(point, field).is_writable:
        raise UnavailableSiteError(f"{point} of {model.description.model_id} can be read but not edited", field=field)


def _check_no_heads(message: pb.PathReceiver, owner: str, field: str) -> None:
    if message.heads:
        raise InvalidRequestError(f"{owner} no heads", field=f"{field}.heads")


def _heads(model: LoadedModel, message: pb.PathSender, points: Sequence[Point], field: str) -> Sequence[Sequence[int]]:
    """What each cell of a layer selects."""
    if not message.HasField("heads"):
        return [()]
    path = f"{field}.heads"
    count = min(_head_count(model.layout, point) for point in points)
    if not count:
        raise InvalidRequestError(f"{points[0]} has no heads", field=path)
    owner = f"{points[0].component} has"
    match message.heads.WhichOneof("cells"):
        case "each":
            return [[head] for head in range(count)]
        case "one_by_one":
            return [[head] for head in check_indices(message.heads.one_by_one.indices, count, "head", path, owner)]
        case "together":
            return [check_indices(message.heads.together.indices, count, "head", path, owner)]
        case _:
            raise InvalidRequestError("the heads are missing: each, one_by_one or together", field=path)


def _head_count(layout: Layout, point: Point) -> int:
    axes = COMPONENTS[point.component].axes
    if tensor_pb2.AXIS_HEAD not in axes:
        return 0
    return layout.state(point).axes_extents[axes.index(tensor_pb2.AXIS_HEAD)]


def _positions(message: pb.PathSender | pb.PathReceiver, field: str) -> list[int]:
    if not message.HasField("positions"):
        return []
    if not message.positions.indices:
        raise InvalidRequestError("no position is named", field=f"{field}.positions")
    return list(message.positions.indices)


def _first_unreached(sender: Sender, sets: Sequence[Sequence[Receiver]]) -> int | None:
    """The first entry of which the sender reaches no receiver."""
    for index, nodes in enumerate(sets):
        if not any(node.is_reached_by(sender) for node in nodes):
            return index
    return None


def _head_suffix(heads: Sequence[int]) -> str:
    return f".h{'+'.join(map(str, heads))}" if heads else ""
