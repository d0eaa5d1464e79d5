"""`neuroscope hooks`: what can be captured in a model."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from neuroscope.cli.connection import Connection, chosen_model, describe
from neuroscope.cli.console import out
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.viz.tables import layer_ranges
from neuroscope.vocabulary.model_info import ModelInfo
from neuroscope.vocabulary.sites import COMPONENTS, Point

_WIDE_COLUMNS = 116
"""Columns of a terminal from which on the meaning of a component has room."""


def hooks(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="By default the one loaded first.")] = "",
    named: ModelOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON.")] = False,
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Shows a model's hook points by layer, and why the others are not there."""
    connection = Connection.of(context, target, local, trace)
    with connection.open("hooks") as client:
        info = client.model(connection.model_id(client, chosen_model(model, named)))
    if as_json:
        out.print_json(data=[_as_dict(point) for point in info.points])
    else:
        out.print(points_by_layer(info))


def points_by_layer(info: ModelInfo) -> Group:
    """A line for each component, a dot for each layer; below it the reasons of what is not available."""
    table = Table(box=SIMPLE_HEAD, title=describe(info.model), title_justify="left", title_style="bold")
    table.add_column("component", no_wrap=True)
    table.add_column(_ruler(info.model.num_layers), no_wrap=info.model.num_layers <= 40)
    table.add_column("shape", style="cyan", no_wrap=True)
    if out.width >= _WIDE_COLUMNS:
        table.add_column("meaning", style="dim")
    reasons: dict[tuple[str, str], list[int]] = {}
    rows: dict[tuple[str, bool], list[pb.HookPoint]] = {}
    for hook_point in info.points:
        point = Point.from_message(hook_point.site)
        rows.setdefault((point.component, point.is_input), []).append(hook_point)
        if not hook_point.available:
            name = f"{point.component}.input" if point.is_input else point.component
            reasons.setdefault((name, hook_point.reason or "not available"), []).append(point.layer or 0)
    for (component, is_input), points in rows.items():
        known = COMPONENTS.get(component)
        meaning = known.meaning if known is not None else ""
        name = Text(f"{component}.input" if is_input else component)
        if not any(point.available for point in points):
            name.stylize("dim")
        dots = Text.assemble(*(("●", "green") if point.available else ("·", "red") for point in points))
        cells = (name, dots, ", ".join(_axes(points[0])), "what the module reads" if is_input else meaning)
        table.add_row(*cells[: len(table.columns)])
    missing = Table(box=SIMPLE_HEAD, title="not available", title_justify="left", title_style="bold")
    for name in ("component", "layers", "reason"):
        missing.add_column(name)
    for (name, reason), layers in reasons.items():
        every = len(layers) == info.model.num_layers
        missing.add_row(name, "all" if every else layer_ranges(layers), Text(reason))
    return Group(table, missing) if reasons else Group(table)


def _ruler(num_layers: int) -> str:
    """Layer numbers above the dots: every fifth one."""
    ruler = "".join(f"{layer:<5}" for layer in range(0, num_layers, 5))[:num_layers].rstrip()
    return ruler if num_layers > 5 else "".join(str(layer) for layer in range(num_layers))


def _axes(point: pb.HookPoint) -> list[str]:
    return [tensor_pb2.Axis.Name(axis).removeprefix("AXIS_").lower() for axis in point.axes]


def _as_dict(point: pb.HookPoint) -> dict[str, object]:
    resolved = Point.from_message(point.site)
    return {
        "point": str(resolved),
        "component": resolved.component,
        "layer": resolved.layer,
        "is_input": resolved.is_input,
        "available": point.available,
        "reason": point.reason,
        "axes": _axes(point),
        "module_path": point.module_path,
    }
