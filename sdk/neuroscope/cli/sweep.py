"""`neuroscope sweep`: activation patching and ablation from the shell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroscope.cli.arguments import LayersOption, parse_layers, parse_numbers, read_prompt
from neuroscope.cli.connection import Connection, LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.console import err, out
from neuroscope.cli.saving import Saver, pictures
from neuroscope.client import Client
from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.experiments import EACH, Criterion, Experiment, Metric, Scores, SweepResult
from neuroscope.experiments import metrics as metric_forms
from neuroscope.experiments.criteria import NAMES
from neuroscope.experiments.criteria import criterion as to_criterion

_SWEPT = ("residual", "attention", "mlps", "heads")
_ANSWERED = {"log_prob": metric_forms.log_prob, "prob": metric_forms.prob, "rank": metric_forms.rank}
_PLAIN = {"kl_divergence": metric_forms.kl_divergence, "cross_entropy": metric_forms.cross_entropy}
METRICS = ("logit_diff", *_ANSWERED, *_PLAIN)
_SAVER: Saver[tuple[SweepResult, Criterion | None]] = Saver(
    {".json": lambda saved, path: saved[0].save(path), **pictures(lambda drawn, path: _draw(drawn, path))}
)


def sweep(
    context: typer.Context,
    clean: Annotated[str, typer.Argument(metavar="CLEAN", help="The prompt with the behaviour.")] = "",
    corrupted: Annotated[
        str, typer.Argument(metavar="[CORRUPTED]", help="The prompt without it; left out: the clean run is ablated.")
    ] = "",
    answer: Annotated[str, typer.Option("--answer", "-a", help="The right token, its leading space included.")] = "",
    other: Annotated[str, typer.Option("--other", help="The wrong one, for logit_diff.")] = "",
    swept: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            "-s",
            help=f"What is swept; repeat it: {', '.join(_SWEPT)}, or any component. By default residual and heads, or "
            "paths alone where they are named.",
        ),
    ] = None,
    subject: Annotated[
        str, typer.Option(help="Causal tracing: a text of CLEAN whose embeddings get noise, in place of CORRUPTED.")
    ] = "",
    samples: Annotated[int, typer.Option(help="Draws of that noise; values are their mean.")] = 10,
    window: Annotated[int, typer.Option(help="Layers around its own that each cell edits together.")] = 1,
    senders: Annotated[
        list[str] | None,
        typer.Option("--sender", help="Begin of direct paths: input, heads, mlps, a3.h5, a3, m3; repeat it."),
    ] = None,
    receivers: Annotated[
        list[str] | None,
        typer.Option("--receiver", help="End of direct paths: a9.h6<q>, m9, logits; a9.h6<q>+m9 read together."),
    ] = None,
    positions: Annotated[
        str, typer.Option(help="each, all (together), or a list such as 0,3,-1. By default each, and for heads all.")
    ] = "",
    layers: LayersOption = "",
    metric: Annotated[str, typer.Option(help=f"One of {', '.join(METRICS)}; by default logit_diff.")] = "",
    into: Annotated[str, typer.Option(help="The run that is edited: corrupted or clean.")] = "corrupted",
    value: Annotated[float, typer.Option(help="What ablation puts there.")] = 0.0,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Scales values: 0 the corrupted run, 1 the clean one.")
    ] = False,
    generate: Annotated[
        int,
        typer.Option("--generate", metavar="N", help="Every run goes on with at most N tokens, greedily."),
    ] = 0,
    criterion: Annotated[
        str,
        typer.Option(
            help=f"Shows which texts meet it: {', '.join(NAMES)}. The metric is then kl_divergence by default."
        ),
    ] = "",
    method: Annotated[str, typer.Option(help="auto, plain, layers or layers_and_positions.")] = "auto",
    experiment: Annotated[
        Path | None, typer.Option("--experiment", metavar="FILE", help="An experiment in JSON, in place of all that.")
    ] = None,
    save: Annotated[
        list[Path] | None,
        _SAVER.option("the result, which an interrupted command continues, or pictures (FILE-NAME of several grids)"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the result as JSON.")] = False,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Patches or ablates every layer, head and position, and shows what each does to a metric."""
    _SAVER.check(save)
    judged = to_criterion(criterion) if criterion else None
    if judged is not None and not generate and experiment is None:
        raise InvalidRequestError("a criterion is of generated texts: --generate N", field="--criterion")
    if not metric:
        metric = "kl_divergence" if judged is not None and not answer else "logit_diff"
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
                swept or ([] if senders or receivers else ["residual", "heads"]),
                (senders, receivers),
                _listed(positions, "--positions"),
                parse_layers(layers),
                metric_of(metric, answer, other, normalise=normalise),
                _begin(corrupted, subject, into, value, samples),
                window,
                method,
                model_id,
                generate,
            )
        kept = next((path for path in save or () if path.suffix.lower() == ".json"), None)
        result = _begun(wanted, kept)
        try:
            client.sweep(wanted, progress=not as_json, result=result)
        except (MLXIntegrationError, KeyboardInterrupt):
            if kept is not None and result.plan is not None:
                result.save(kept)
                err.print(f"interrupted; the same command continues {kept}", style="dim", soft_wrap=True)
            raise
    _show(result, judged, as_json=as_json)
    _SAVER.write((result, judged), save)


def _written(
    client: Client,
    clean: str,
    swept: list[str],
    paths: tuple[list[str] | None, list[str] | None],
    positions: Any,
    layers: Any,
    metric: Metric,
    begin: tuple[str, dict[str, Any]],
    window: int,
    method: str,
    model_id: str,
    generate: int,
) -> Experiment:
    call, how = begin
    patching: Any = getattr(client, call)(clean, model_id=model_id, **how)
    for name in swept:
        chosen: dict[str, Any] = {"layers": layers, "window": window}
        if positions is not None:
            chosen["positions"] = None if positions == "all" else positions
        if name in _SWEPT:
            patching = getattr(patching, name)(**chosen)
        else:
            patching = patching.site(name, **{"positions": EACH, **chosen})
    senders, receivers = paths
    if senders or receivers:
        ends = [name.split("+") for name in receivers or ["logits"]]
        patching = patching.paths(senders or ["heads"], ends)
    if generate:
        patching = patching.generating(generate)
    return patching.scored_by(metric, method=method)


def _begin(corrupted: str, subject: str, into: str, value: float, samples: int) -> tuple[str, dict[str, Any]]:
    """The client's call that begins the sweep, and its arguments behind the prompt."""
    if subject and corrupted:
        raise InvalidRequestError("noise at a subject makes the corrupted run: leave out CORRUPTED", field="--subject")
    if subject:
        return "causal_trace", {"subject": subject, "samples": samples}
    return ("patch", {"corrupted": corrupted, "into": into}) if corrupted else ("ablate", {"value": value})


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
    return text if text in (EACH, "all") else parse_numbers(text, option)


def _begun(wanted: Experiment, kept: Path | None) -> SweepResult:
    """A result to fill: what an earlier run of the same experiment left in the file."""
    if kept is None or not kept.exists():
        return SweepResult(wanted)
    found = SweepResult.load(kept)
    if found.experiment != wanted:
        raise InvalidRequestError(f"{kept} holds the result of another experiment", field="--save")
    return found


def _show(result: SweepResult, judged: Criterion | None, *, as_json: bool) -> None:
    if as_json:
        told = result.to_json()
        if judged is not None:
            told["criterion"] = {name: result[name].by(judged).values.tolist() for name in result.names}
        out.print_json(json.dumps(told))
    else:
        out.print(result.table())
        for name in result.names:
            out.print(_shown(result[name]).table())
            if judged is not None:
                out.print(_shown(result[name].by(judged)).table())


def _draw(drawn: tuple[SweepResult, Criterion | None], path: Path) -> list[Path]:
    """A picture for each grid, of what a criterion says where there is one."""
    result, judged = drawn
    scores = {name: result[name] if judged is None else result[name].by(judged) for name in result.names}
    return draw_each({name: _shown(each) for name, each in scores.items()}, path)


def draw_each(scores: Mapping[str, Scores], path: Path) -> list[Path]:
    """A picture for each grid: `path` for one, its name with that of the grid for several. Gives the files."""
    paths: list[Path] = []
    for name, each in scores.items():
        paths.append(path if len(scores) == 1 else path.with_stem(f"{path.stem}-{name.replace('#', '-')}"))
        each.plot(paths[-1])
    return paths


def _shown(scores: Scores) -> Scores:
    """Of several pairs, which are samples of noise here, the mean."""
    return scores.mean("pair") if "pair" in scores.dims else scores
