"""What the selectors of a request choose at a point; what is not there is refused by its field."""

from __future__ import annotations

from neuroscope.errors import InvalidRequestError, UnknownSiteError
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.layout import PointState


def check_computed(point: Point, stop_before: int | None, field: str) -> None:
    """Refuses a point behind the end of a forward pass.

    Raises:
        UnknownSiteError: the forward pass ends before it.
    """
    if stop_before is None:
        return
    is_run = point.component == "embedding" or (point.layer is not None and point.layer < stop_before)
    if not is_run and (point.component, point.layer) != ("resid_pre", stop_before):
        raise UnknownSiteError(f"{point} is not computed: stop_at_layer is {stop_before}", field=f"{field}.site.layer")


def select_heads(
    select: site_pb2.Selector, head_axis: int, state: PointState, point: Point, field: str
) -> tuple[int, ...]:
    """The selected heads, counted from 0; empty: all.

    Raises:
        InvalidRequestError: there is no such head, or there are no heads.
    """
    if not select.heads:
        return ()
    if head_axis < 0:
        raise InvalidRequestError(f"{point} has no heads", field=field)
    count = state.axes_extents[head_axis]
    for head in select.heads:
        if not -count <= head < count:
            raise InvalidRequestError(f"head {head} is out of range: {point} has heads 0 to {count - 1}", field=field)
    return tuple(head % count for head in select.heads)


def select_positions(select: site_pb2.Selector, field: str) -> site_pb2.PositionSelector | None:
    """The selector of positions; None: all.

    Raises:
        InvalidRequestError: it names none.
    """
    if not select.HasField("positions"):
        return None
    which = select.positions.WhichOneof("which")
    if which is None or (which == "list" and not select.positions.list.positions):
        raise InvalidRequestError("the selector names no position", field=field)
    return select.positions


def select_rows(select: site_pb2.Selector, rows: int, field: str) -> frozenset[int] | None:
    """The selected rows; None: all.

    Raises:
        InvalidRequestError: the request has fewer.
    """
    for row in select.rows:
        if row >= rows:
            raise InvalidRequestError(f"row {row} is out of range: the request has {rows} prompts", field=field)
    return frozenset(select.rows) or None
