"""Tables (rich) for terminals and notebooks."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neuroscope.v1 import tensor_pb2
from neuroscope.viz.text_table import NOTEBOOK_WIDTH, TextTable, as_text
from neuroscope.vocabulary.counts import counted
from neuroscope.vocabulary.tensors import dtype_name
from neuroscope.vocabulary.token_text import visible

if TYPE_CHECKING:
    from neuroscope.activations.activation import Activation
    from neuroscope.activations.cache import ActivationCache
    from neuroscope.activations.layer_predictions import LayerPredictions
    from neuroscope.activations.vocabulary_projection import VocabularyProjection
    from neuroscope.datasets.dataset import Dataset
    from neuroscope.dictionaries.dictionary import Dictionary
    from neuroscope.dictionaries.features import FeatureActivations
    from neuroscope.directions.directions import Directions
    from neuroscope.display import Displayable
    from neuroscope.labelled_array import LabelledArray
    from neuroscope.vocabulary.model_info import ModelInfo

_MB = 1e6


def cache_table(cache: ActivationCache) -> Table:
    """Site, shape, dtype and size of all activations in a cache; layers with equal values share a row."""
    title = f"{cache.model_id or 'activations'}: {counted(len(cache), 'tensor')}, {_amount(cache.nbytes / _MB)} MB"
    table = _table(title, "site", "hook", "layers", "shape", "dtype")
    table.add_column("MB", justify="right")
    lines: dict[tuple[str, ...], list[Activation]] = {}
    for activation in cache.by_name().values():
        side = ".input" if activation.point.is_input else ""
        reduced = f":{activation.reduced}" if activation.reduced else ""
        made_by_server = activation.name.startswith(activation.hook_id)  # logits:top_k is that of its indices too
        hook = "" if made_by_server else activation.hook_id
        site = f"{activation.point.component}{side}{reduced}"
        key = (site, hook, _shapes(activation), activation.dtype.name)
        lines.setdefault(key, []).append(activation)
    for (site, hook, shape, dtype), activations in lines.items():
        layers = layer_ranges(a.point.layer for a in activations if a.point.layer is not None)
        megabytes = sum(activation.nbytes for activation in activations) / _MB
        table.add_row(*map(Text, (site, hook, layers, shape, dtype, _amount(megabytes))))
    return table


def array_table(array: LabelledArray, count: int = 10) -> Table:
    """The entries of an array with the largest magnitudes."""
    table = _table(array.name.replace("_", " "), *array.dims)
    table.add_column("value", justify="right")
    for place, value in array.top(count):
        table.add_row(*(Text(str(entry)) for entry in place.values()), f"{value:.4f}")
    return table


def dataset_table(pairs: Dataset, count: int = 5) -> Table:
    """The first pairs, and the number of dropped examples."""
    left_out = ", ".join(f"{number} {reason}" for reason, number in pairs.dropped.items())
    title = f"{pairs.name or 'pairs of your own'}: {counted(len(pairs), 'pair')}" + (
        f"; left out: {left_out}" if left_out else ""
    )
    table = _table(title, "clean", "corrupted", "answer", "other")
    for pair in pairs[:count]:
        example = pair.example
        table.add_row(*(Text(str(part)) for part in (example.clean, example.corrupted, example.answer, example.other)))
    return table


def directions_table(found: Directions) -> Table:
    """Accuracy, p-value and norm of each direction."""
    table = _table(f"{counted(len(found), 'direction')}", "point")
    for name in ("accuracy", "p", "norm"):
        table.add_column(name, justify="right")
    for name, direction in found.items():
        separation = direction.separation
        if not separation.count:
            cells = ["not tested", ""]
        else:
            chance = "" if separation.is_significant else " (chance)"
            cells = [f"{separation.correct} of {separation.count}{chance}", f"{separation.p_value:.2g}"]
        table.add_row(*map(Text, (name, *cells, f"{direction.norm:.4g}")))
    return table


def features_table(seen: FeatureActivations, count: int) -> Table:
    """The most active features, L0 and relative reconstruction error at every position."""
    title = f"{seen.dictionary.dictionary_id}: features of {seen.dictionary.model_id}, FVU {seen.fvu:.3f}"
    table = _table(title, "position", "token", "feature: activation")
    for name in ("active", "error"):
        table.add_column(name, justify="right")
    for place, (position, token_id) in enumerate(zip(seen.positions, seen.token_ids, strict=True)):
        shown = zip(seen.indices[place, :count], seen.values[place, :count], strict=True)
        listed = "  ".join(f"{feature}: {value:.3g}" for feature, value in shown if feature >= 0)
        missed = math.sqrt(seen.squared_errors[place] / max(seen.squared_norms[place], 1e-30))
        token = visible(seen.texts.get(token_id, ""))
        table.add_row(*map(Text, (str(position), token, listed, str(seen.l0[place]), f"{missed:.3f}")))
    return table


def dictionaries_table(listed: Iterable[Dictionary]) -> Table:
    """Dictionaries with model, sites, architecture and size."""
    table = _table("dictionaries", "name", "model", "reads", "writes", "kind")
    for name in ("features", "MB"):
        table.add_column(name, justify="right")
    for one in listed:
        writes = str(one.output) if one.is_transcoder else ""
        sizes = str(one.feature_count), _amount(one.description.length_bytes / _MB)
        cells = (one.dictionary_id, one.description.model_id, str(one.point), writes, one.architecture, *sizes)
        table.add_row(*map(Text, cells))
    return table


def lens_table(seen: LayerPredictions, position: int) -> Table:
    """Likeliest tokens, ranks of the requested tokens and KL divergence at every point, for one position."""
    read = visible(seen.texts.get(seen.token_ids[position], ""))
    ranked = [f"rank of {visible(seen.texts.get(token_id, str(token_id)))}" for token_id in seen.requested_token_ids]
    table = _table(f"{seen.model_id}: after {read!r} at position {seen.positions[position]}", "point")
    for index in range(seen.top_token_ids.shape[2]):
        table.add_column("likeliest" if not index else f"{index + 1}")
    for name in [*ranked, "KL, nats"]:
        table.add_column(name, justify="right")
    for index, point in enumerate(seen.points):
        tops = zip(seen.top_token_ids[index, position], seen.top_log_probabilities[index, position], strict=True)
        cells = [f"{visible(seen.texts.get(int(token), str(token)))} {math.exp(logp):.3f}" for token, logp in tops]
        ranks = [str(rank) for rank in seen.ranks[index, position]]
        table.add_row(*map(Text, (str(point), *cells, *ranks, f"{seen.kl[index, position]:.3f}")))
    return table


def projected_table(seen: VocabularyProjection) -> Table:
    """Likeliest tokens, ranks of the requested tokens and KL divergence for each vector."""
    ranked = [f"rank of {visible(seen.texts.get(token_id, str(token_id)))}" for token_id in seen.requested_token_ids]
    table = _table(f"{seen.model_id}: {math.prod(seen.shape)} vectors", "vector")
    for index in range(seen.top_token_ids.shape[-1]):
        table.add_column("likeliest" if not index else f"{index + 1}")
    for name in [*ranked, *(["KL, nats"] if seen.kl is not None else [])]:
        table.add_column(name, justify="right")
    for place in np.ndindex(seen.shape):
        tops = zip(seen.top_token_ids[place], seen.top_log_probabilities[place], strict=True)
        cells = [f"{visible(seen.texts.get(int(token), str(token)))} {math.exp(logp):.3f}" for token, logp in tops]
        cells += [str(rank) for rank in seen.ranks[place]]
        cells += [] if seen.kl is None else [f"{seen.kl[place]:.3f}"]
        table.add_row(*map(Text, (", ".join(map(str, place)), *cells)))
    return table


def model_table(info: ModelInfo) -> Table:
    """The points of a model by component: layers, axes, dtype, module, and why some are not available."""
    model = info.model
    title = (
        f"{model.model_id}: {model.architecture}, {counted(model.num_layers, 'layer')}, d_model {model.d_model},"
        f" {counted(model.num_heads, 'head')}, {model.parameter_count / 1e6:.1f} M parameters, {_dtype(model.dtype)}"
    )
    table = _table(title, "component", "layers", "axes", "dtype", "module", "not available")
    lines: dict[tuple[str, ...], list[int | None]] = {}
    for point in info.points:
        site = point.site
        layer = site.layer if site.HasField("layer") else None
        side = ".input" if site.side == 1 else ""
        axes = ", ".join(tensor_pb2.Axis.Name(axis).removeprefix("AXIS_").lower() for axis in point.axes)
        module = point.module_path if layer is None else point.module_path.replace(f".{layer}", ".N", 1)
        reason = "" if point.available else point.reason or "not available"
        key = (f"{site.component}{side}", axes, _dtype(point.dtype) if point.available else "", module, reason)
        lines.setdefault(key, []).append(layer)
    for (component, axes, dtype, module, reason), layers in lines.items():
        where = layer_ranges(layer for layer in layers if layer is not None)
        table.add_row(*map(Text, (component, where, axes, dtype, module, reason)))
    return table


def layer_ranges(layers: Iterable[int]) -> str:
    """Layers as ranges: 0-3, 5."""
    ranges: list[list[int]] = []
    for layer in sorted(set(layers)):
        if ranges and ranges[-1][1] == layer - 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def text(value: Displayable) -> str:
    """A value's table as text, for `repr`."""
    return as_text(value.table())


def mimebundle(value: Displayable, **options: Any) -> dict[str, str]:
    """A value's table for a notebook: HTML and text."""
    return as_mimebundle(value.table())


def as_mimebundle(table: Table) -> dict[str, str]:
    """A table for a notebook: HTML and text."""
    console = Console(file=io.StringIO(), width=NOTEBOOK_WIDTH, record=True, force_jupyter=False)
    console.print(table)
    style = "white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace"
    html = console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')
    return {"text/plain": as_text(table), "text/html": html}


def _table(title: str, *columns: str) -> Table:
    table = TextTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _shapes(activation: Activation) -> str:
    shapes = [activation.shape(row) for row in activation.rows]
    if len(set(shapes)) == 1:
        return str((len(shapes), *shapes[0][1:]))
    return f"{len(shapes)} rows, " + ", ".join(str(shape) for shape in shapes[:3]) + (", …" if len(shapes) > 3 else "")


def _amount(megabytes: float) -> str:
    if 0 < megabytes < 0.01:
        return "<0.01"
    return f"{megabytes:.2f}" if megabytes < 10 else f"{megabytes:,.0f}"


def _dtype(dtype: tensor_pb2.DataType.ValueType) -> str:
    return dtype_name(dtype) if dtype else ""
