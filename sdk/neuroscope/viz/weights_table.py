"""Table of weights."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from neuroscope.v1 import weights_pb2 as pb
from neuroscope.viz.tables import layer_ranges
from neuroscope.viz.text_table import TextTable
from neuroscope.vocabulary.counts import counted
from neuroscope.weights.keys import WeightKey, describe
from neuroscope.weights.weights import Weights

_MB = 1e6
_SOURCES = {
    pb.WEIGHT_SOURCE_STORED: "stored",
    pb.WEIGHT_SOURCE_DEQUANTIZED: "dequantised",
    pb.WEIGHT_SOURCE_ADAPTED: "with adapter",
    pb.WEIGHT_SOURCE_EFFECTIVE: "effective",
}


def weights_table(weights: Weights) -> Table:
    """A row for each weight, with equal layers combined; with summaries, a row for each layer with its norm."""
    title = f"{weights.model_id}: {counted(len(weights.places), 'tensor')}, {weights.nbytes / _MB:,.1f} MB"
    table = TextTable(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("weight", "layers", "shape", "dtype", "source", "module"):
        table.add_column(name)
    measured = ("norm", "mean", "deviation", "largest") if weights.summaries else ()
    for name in measured:
        table.add_column(name, justify="right")
    lines: dict[tuple[str, ...], list[WeightKey]] = {}
    for place, spec, weight in zip(weights.places, weights.plan.tensors.tensors, weights.plan.weights, strict=True):
        name, layer = place
        module = spec.layer_name.replace(f".{layer}.", ".N.", 1) if layer is not None else spec.layer_name
        alone = "" if not measured else str(layer)
        lines.setdefault((name, *describe(spec), _SOURCES.get(weight.source, ""), module, alone), []).append(place)
    for (name, shape, dtype, source, module, _), places in lines.items():
        layers = layer_ranges(layer for _, layer in places if layer is not None)
        cells = [name, layers, shape, dtype, source, module]
        if measured:
            summary = weights.summaries[places[0]]
            numbers = (summary.norm, summary.mean, summary.standard_deviation, summary.largest)
            cells += [f"{number:.4g}" for number in numbers]
        table.add_row(*map(Text, cells))
    return table
