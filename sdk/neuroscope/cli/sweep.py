"""`neuroscope sweep`: activation patching and ablation from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroscope.cli.arguments import read_prompt
from neuroscope.cli.connection import Connection, LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.console import err, out
from neuroscope.client import Client
from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.experiments import EACH, Experiment, Metric, SweepResult
from neuroscope.experiments import metrics as metric_forms
from neuroscope.experiments.grids import Axis

_SWEPT = ("residual", "attention", "mlps", "heads")
_ANSWERED = {"log_prob": metric_forms.log_prob, "prob": metric_forms.prob, "rank": metric_forms.rank}
_PLAIN = {"kl_divergence": metric_forms.kl_divergence, "cross_entropy": metric_forms.cross_entropy}
METRICS = ("logit_diff", *_ANSWERED, *_PLAIN)


def sweep(
    context: typer.Context,
    clean: Annotated[str, typer.Argument(metavar="CLEAN", help="The prompt with the behaviour.")] = "",
    corrupted: Annotated[
        str, typer.Argument(metavar="[CORRUPTED]", help="The prompt without it; left out: the clean run is ablated.")
    ] = "",
    answer: Annotated[str, typer.Option("--answer", "-a", help="The right token, its leading space included.")] = "",
    other: Annotated[str, typer.Option("--other", "-o", help="The wrong one, for logit_diff.")] = "",
    swept: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            "-s",
            help=f"What is swept; repeat it: {', '.join(_SWEPT)}, or any component. By default residual and heads.",
        ),
    ] = None,
    positions: Annotated[
        str, typer.Option(help="each, all (together), or a list such as 0,3,-1. By default each, and for heads all.")
    ] = "",
    layers: Annotated[str, typer.Option(help="A list such as 0,3,-1; by default every layer.")] = "",
    metric: Annotated[str, typer.Option(help=f"One of {', '.join(METRICS)}.")] = "logit_diff",
    into: Annotated[str, typer.Option(help="The run that is edited: corrupted or clean.")] = "corrupted",
    value: Annotated[float, typer.Option(help="What ablation puts there.")] = 0.0,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Scales values: 0 the corrupted run, 1 the clean one.")
    ] = False,
    method: Annotated[str, typer.Option(help="auto, plain, layers or layers_and_positions.")] = "auto",
    experiment: Annotated[
        Path | None, typer.Option("--experiment", metavar="FILE", help="An experiment in JSON, in place of all that.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Keeps the result as JSON; one that was interrupted goes on."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Pictures: FILE for one grid, FILE-NAME for several.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the result as JSON.")] = False,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Patches or ablates every layer, head and position, and shows what each does to a metric."""
    connection = Connection.of(context, target, local, trace)
    with connection.open("sweep") as client:
        if experiment is not None:
            wanted = Experiment.load(experiment)
            wanted.request.model_id = connection.model_id(client, model or wanted.request.model_id)
        else:
            model_id = connection.model_id(client, model)
            wanted = _written(
                client,
                read_prompt(clean),
                corrupted,
                swept or ["residual", "heads"],
                _listed(positions, "--positions"),
                _listed(layers, "--layers"),
                metric_of(metric, answer, other, normalise=normalise),
                {"into": into} if corrupted else {"value": value},
                method,
                model_id,
            )
        result = _begun(wanted, save)
        try:
            client.sweep(wanted, progress=not as_json, result=result)
        except (MLXIntegrationError, KeyboardInterrupt):
            if save is not None and result.plan is not None:
                result.save(save)
                err.print(f"interrupted; the same command goes on with {save}", style="dim", soft_wrap=True)
            raise
    _show(result, save, plot, as_json=as_json)


def _written(
    client: Client,
    clean: str,
    corrupted: str,
    swept: list[str],
    positions: Any,
    layers: Any,
    metric: Metric,
    how: dict[str, Any],
    method: str,
    model_id: str,
) -> Experiment:
    patching: Any = (
        client.patch(clean, corrupted, model_id=model_id, **how)
        if corrupted
        else client.ablate(clean, model_id=model_id, **how)
    )
    for name in swept:
        chosen: dict[str, Axis] = {"layers": None if layers == EACH else layers}
        if positions is not None:
            chosen["positions"] = None if positions == "all" else positions
        if name in _SWEPT:
            patching = getattr(patching, name)(**chosen)
        else:
            patching = patching.site(name, **{"positions": EACH, **chosen})
    return patching.scored_by(metric, method=method)


def metric_of(name: str, answer: str, other: str, *, normalise: bool) -> Metric:
    """The metric that options name.

    Raises:
        InvalidRequestError: there is no such metric, or a token that it needs is missing.
    """
    if name in _PLAIN:
        chosen = _PLAIN[name]()
    elif name in _ANSWERED or name == "logit_diff":
        if not answer:
            raise InvalidRequestError(f"{name} needs the right token", field="--answer")
        if name == "logit_diff" and not other:
            raise InvalidRequestError("logit_diff needs the wrong token", field="--other")
        chosen = (
            _ANSWERED[name](token_of(answer))
            if name in _ANSWERED
            else metric_forms.logit_diff(token_of(answer), token_of(other))
        )
    else:
        raise InvalidRequestError(f"there is no metric {name!r}", field="--metric", valid=METRICS)
    return chosen.normalised() if normalise else chosen


def token_of(text: str) -> str | int:
    """A token's text; #42 is the id 42."""
    return int(text[1:]) if text.startswith("#") and text[1:].isdecimal() else text


def _listed(text: str, option: str) -> Any:
    """None where nothing was said, each, all, or whole numbers."""
    if not text:
        return None
    if text in (EACH, "all"):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidRequestError(f"{text!r} is neither each, all, nor numbers such as 0,3,-1", field=option) from None


def _begun(wanted: Experiment, save: Path | None) -> SweepResult:
    """A result to fill: what an earlier run of the same experiment left in the file."""
    if save is None or not save.exists():
        return SweepResult(wanted)
    found = SweepResult.load(save)
    if found.experiment != wanted:
        raise InvalidRequestError(f"{save} holds the result of another experiment", field="--save")
    return found


def _show(result: SweepResult, save: Path | None, plot: Path | None, *, as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps(result.to_json()))
    else:
        out.print(result.table())
        for name in result.names:
            out.print(result[name].table())
    if save is not None:
        result.save(save)
        err.print(f"saved: {save}", style="dim", soft_wrap=True)
    if plot is not None:
        for name in result.names:
            path = plot if len(result) == 1 else plot.with_stem(f"{plot.stem}-{name.replace('#', '-')}")
            result[name].plot(path)
            err.print(f"saved: {path}", style="dim", soft_wrap=True)
