"""`neuroscope circuit`: circuits in files, and a model's graph; and `neuroscope analyze circuit`, which finds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neuroscope.analysis.circuit_requests import GRANULARITIES
from neuroscope.circuits import METHODS, Circuit, CircuitComparison
from neuroscope.circuits.formats import ENDINGS, FORMATS, check_format
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import err, out
from neuroscope.cli.options import AnalysisTargetOption, LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import Saver, pictures
from neuroscope.datasets import NAMED

app = typer.Typer(no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A circuit: JSON (ours, MIB's, lazarus'), GraphML.")]
_CIRCUIT: Saver[Circuit] = Saver(dict.fromkeys(ENDINGS, Circuit.save))
_COMPARISON: Saver[CircuitComparison] = Saver(pictures(CircuitComparison.plot, ".html", ".htm"))
SaveOption = Annotated[list[Path] | None, _CIRCUIT.option("the circuit")]
JsonOption = Annotated[bool, typer.Option("--json", help="Prints JSON.")]


def find(
    context: typer.Context,
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", metavar="NAME|FILE", help=f"{', '.join(NAMED)}, or a JSONL file of pairs.")
    ] = "ioi",
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = "eap-ig",
    size: Annotated[float | None, typer.Option(help="Share of the graph's edges.")] = None,
    count: Annotated[int | None, typer.Option(help="Number of edges.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Least magnitude of a score; of acdc, its threshold.")] = None,
    faithfulness: Annotated[float | None, typer.Option(help="Smallest circuit that reaches it; default: 0.9.")] = None,
    granularity: Annotated[str, typer.Option(help=f"{' or '.join(filter(None, GRANULARITIES))}.")] = "",
    steps: Annotated[int, typer.Option(min=0, help="Of eap-ig, inputs between both runs; 0: 5.")] = 0,
    into: Annotated[str, typer.Option(help="The run that is edited to score: clean or corrupted.")] = "",
    pair_count: Annotated[int | None, typer.Option(help="Pairs of the dataset; 64 of a named one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of a named dataset's generator.")] = 0,
    drop: Annotated[bool, typer.Option("--drop", help="Leaves out pairs of a file that do not fit.")] = False,
    curve: Annotated[bool, typer.Option("--curve", help="Faithfulness at MIB's sizes, with CPR and CMD.")] = False,
    minimality: Annotated[bool, typer.Option("--minimality", help="Measures what each edge is worth.")] = False,
    resample_count: Annotated[
        int | None,
        typer.Option(min=0, help="Bootstrap resamples of the pairs, for stability; default: 100."),
    ] = None,
    no_prune: Annotated[bool, typer.Option("--no-prune", help="Keeps edges that lead nowhere.")] = False,
    no_test: Annotated[bool, typer.Option("--no-test", help="Takes effects as they are, noise or not.")] = False,
    significance: Annotated[float, typer.Option(help="Chance of taking noise for an effect; 0: 0.001.")] = 0.0,
    least_effect: Annotated[float, typer.Option(help="Least effect that counts, in units of the metric.")] = 0.0,
    evaluate: Annotated[
        Path | None, typer.Option("--evaluate", metavar="FILE", help="Measures this circuit; searches for none.")
    ] = None,
    save: SaveOption = None,
    as_json: JsonOption = False,
    model: ModelOption = "",
    target: AnalysisTargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Finds the circuit of a behaviour, and measures how well it does without the rest of the model."""
    _CIRCUIT.check(save)
    given = None if evaluate is None else Circuit.load(evaluate)
    connection = Connection.of(context, None, local, trace)
    with connection.open_analysis("analyze circuit", target, model) as client:
        model_id = "" if connection.local else model
        chosen = client.dataset(dataset, count=pair_count, seed=seed, drop=drop, model_id=model_id)
        if chosen.dropped and not as_json:
            left_out = ", ".join(f"{number} {reason}" for reason, number in chosen.dropped.items())
            err.print(f"{len(chosen)} pairs; left out: {left_out}", style="dim", soft_wrap=True)
        if given is not None:
            circuit = client.evaluate_circuit(
                given, chosen, curve=curve, minimality=minimality, model_id=model_id, progress=not as_json
            ).circuit
            reason = ""
        else:
            found = client.discover_circuit(
                chosen,
                method=method,
                size=size,
                count=count,
                threshold=threshold,
                faithfulness=faithfulness,
                granularity=granularity,
                steps=steps,
                into=into,
                prune=not no_prune,
                test=not no_test,
                significance=significance,
                least_effect=least_effect,
                curve=curve,
                minimality=minimality,
                resample_count=resample_count,
                model_id=model_id,
                progress=not as_json,
            )
            circuit, reason = found.circuit, found.reason
    if as_json:
        out.print_json(json.dumps(circuit.to_json()))
    else:
        out.print(circuit.table())
        if reason:
            out.print(f"no effect: {reason}", style="yellow", soft_wrap=True)
    _CIRCUIT.write(circuit, save)


@app.command()
def show(file: FileArgument, save: SaveOption = None, as_json: JsonOption = False) -> None:
    """Shows what is known of a circuit: how it was found, how well it does, its strongest edges."""
    circuit = Circuit.load(file)
    if as_json:
        out.print_json(json.dumps(circuit.to_json()))
    else:
        out.print(circuit.table())
    _CIRCUIT.write(circuit, save)


@app.command()
def graph(
    context: typer.Context,
    as_json: JsonOption = False,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Shows the graph of a model that circuits are parts of: what writes the residual stream, and what reads it."""
    connection = Connection.of(context, target, local, trace)
    with connection.open("circuit graph") as client:
        model_id = client.model(connection.model_id(client, model)).model_id
        found = client.edge_graph(model_id=model_id)
    readers = list(zip(found.receivers, found.sender_counts, strict=True))
    if as_json:
        summary = {"model": model_id, "senders": found.senders, "edge_count": found.edge_count}
        receivers = [{"name": name, "sender_count": count} for name, count in readers]
        out.print_json(json.dumps(summary | {"receivers": receivers}))
        return
    out.print(f"{model_id}: {len(found.senders)} senders, {len(readers)} receivers, {found.edge_count:,} edges")
    for name, count in readers:
        out.print(f"{name} reads {count}: {found.senders[0]} to {found.senders[count - 1]}", soft_wrap=True)


@app.command()
def export(
    file: FileArgument,
    save: Annotated[
        Path | None, typer.Option("--save", "-o", metavar="FILE", help="Where to; by default standard output.")
    ] = None,
    format: Annotated[
        str, typer.Option("--format", "-f", help=f"{', '.join(FORMATS)}; by default by the ending.")
    ] = "",
) -> None:
    """Writes a circuit in another format."""
    circuit = Circuit.load(file)
    if save is not None:
        circuit.save(save, format)
        err.print(f"saved: {save}", style="dim", soft_wrap=True)
        return
    chosen = check_format(format or "json")
    out.print(circuit.to_text(chosen), markup=False, highlight=False, soft_wrap=True, end="")


@app.command()
def compare(
    first: FileArgument,
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Another circuit of the same model's graph.")],
    save: Annotated[list[Path] | None, _COMPARISON.option("a picture of both")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compares two circuits: shared nodes and edges, those of one alone, correlation of their scores."""
    _COMPARISON.check(save)
    comparison = Circuit.load(first).compare(Circuit.load(second))
    if as_json:
        out.print_json(json.dumps(comparison.to_json()))
    else:
        out.print(comparison.table())
    _COMPARISON.write(comparison, save)
