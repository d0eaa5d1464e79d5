"""`neuroscope analyze`: what activations say about how a model works, by the analysis service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroscope.analysis import read_pairs
from neuroscope.cli import attention, circuits, residual
from neuroscope.cli.arguments import LayersOption, parse_layers
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import out
from neuroscope.cli.options import (
    AnalysisTargetOption,
    LocalOption,
    ModelOption,
    PairsOption,
    SeedOption,
    SequencesOption,
    TraceOption,
)
from neuroscope.cli.saving import RESULT

app = typer.Typer(no_args_is_help=True)

SaveOption = Annotated[list[Path] | None, RESULT.option("the result or a picture of it")]
JsonOption = Annotated[bool, typer.Option("--json", help="Prints the result as JSON.")]


app.command("attention")(attention.attention)
app.command("circuit")(circuits.find)
app.command("residual")(residual.residual)
app.command("tuned-lens")(residual.tuned_lens)


@app.command()
def composition(
    context: typer.Context,
    layers: LayersOption = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the random heads that scores are compared with.")] = 0,
    save: SaveOption = None,
    as_json: JsonOption = False,
    model: ModelOption = "",
    target: AnalysisTargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Says by their weights how much each head can read of what each earlier one writes."""
    RESULT.check(save)
    connection = Connection.of(context, None, local, trace)
    with connection.open_analysis("analyze composition", target, model) as client:
        found = client.measure_composition(
            layers=parse_layers(layers), seed=seed, model_id="" if connection.local else model, progress=not as_json
        )
    _show(found, save, as_json=as_json)


@app.command()
def interactions(
    context: typer.Context,
    pairs: PairsOption = None,
    every_head: Annotated[
        bool, typer.Option("--every-head", help="Tries heads, too, that have no effect of their own.")
    ] = False,
    layers: LayersOption = "",
    seed: SeedOption = 0,
    sequences: SequencesOption = 0,
    save: SaveOption = None,
    as_json: JsonOption = False,
    model: ModelOption = "",
    target: AnalysisTargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Finds which heads read what other heads write, by patching the path between them.

    On the pairs of --pairs, or on random sequences, each a block that comes twice.
    """
    RESULT.check(save)
    given = read_pairs(pairs) if pairs else None
    connection = Connection.of(context, None, local, trace)
    with connection.open_analysis("analyze interactions", target, model) as client:
        found = client.map_interactions(
            given,
            layers=parse_layers(layers),
            seed=seed,
            sequences=sequences,
            every_head=every_head,
            model_id="" if connection.local else model,
            progress=not as_json,
        )
    _show(found, save, as_json=as_json)


def _show(found: Any, save: Sequence[Path] | None, *, as_json: bool) -> None:
    """Prints a result, and writes it where it is wanted."""
    if as_json:
        out.print_json(json.dumps(found.to_json()))
    else:
        out.print(found.table())
    RESULT.write(found, save)
