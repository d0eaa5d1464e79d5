"""`neuroscope sweep`: activation patching and ablation from the shell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroscope.cli.arguments import LayersOption, parse_layers, parse_numbers, read_prompt
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import err, out
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import Saver, pictures
from neuroscope.client import Client
from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.experiments import EACH, Criterion, Experiment, Metric, Scores, SweepResult
from neuroscope.experiments import metrics as metric_forms
from neuroscope.experiments.criteria import NAMES
from neuroscope.experiments.criteria import criterion as to_criterion

_SITE_GROUPS = ("residual", "attention", "mlps", "heads")
_ANSWER_METRICS = {"log_prob": metric_forms.log_prob, "prob": metric_forms.prob, "rank": metric_forms.rank}
_DISTRIBUTION_METRICS = {"kl_divergence": metric_forms.kl_divergence, "cross_entropy": metric_forms.cross_entropy}
METRICS = ("logit_diff", *_ANSWER_METRICS, *_DISTRIBUTION_METRICS)
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
            help=f"What is swept; repeat it: {', '.join(_SITE_GROUPS)}, or any component. By default residual and "
            "heads, or paths alone where they are named.",
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
    criterion_given = to_criterion(criterion) if criterion else None
    if criterion_given is not None and not generate and experiment is None:
        raise InvalidRequestError("a criterion is of generated texts: --generate N", field="--criterion")
    if not metric:
        metric = "kl_divergence" if criterion_given is not None and not answer else "logit_diff"
    connection = Connection.of(context, target, local, trace)
    with connection.open("sweep") as client:
        if experiment is not None:
            experiment_run = Experiment.load(experiment)
            experiment_run.request.model_id = connection.model_id(client, model or experiment_run.request.model_id)
        else:
            model_id = connection.model_id(client, model)
            experiment_run = _build_experiment(
                client,
                read_prompt(clean),
                swept or ([] if senders or receivers else ["residual", "heads"]),
                (senders, receivers),
                _parse_positions(positions, "--positions"),
                parse_layers(layers),
                metric_of(metric, answer, other, normalise=normalise),
                _first_call(corrupted, subject, into, value, samples),
                window,
                method,
                model_id,
                generate,
            )
        kept = next((path for path in save or () if path.suffix.lower() == ".json"), None)
        result = _load_partial(experiment_run, kept)
        try:
            client.sweep(experiment_run, progress=not as_json, result=result)
        except (MLXIntegrationError, KeyboardInterrupt):
            if kept is not None and result.plan is not None:
                result.save(kept)
                err.print(f"interrupted; the same command continues {kept}", style="dim", soft_wrap=True)
            raise
    _print(result, criterion_given, as_json=as_json)
    _SAVER.write((result, criterion_given), save)


def _build_experiment(
    client: Client,
    clean: str,
    swept: list[str],
    paths: tuple[list[str] | None, list[str] | None],
    positions: Any,
    layers: Any,
    metric: Metric,
    first_call: tuple[str, dict[str, Any]],
    window: int,
    method: str,
    model_id: str,
    generate: int,
) -> Experiment:
    call, arguments = first_call
    patching: Any = getattr(client, call)(clean, model_id=model_id, **arguments)
    for name in swept:
        chosen: dict[str, Any] = {"layers": layers, "window": window}
        if positions is not None:
            chosen["positions"] = None if positions == "all" else positions
        if name in _SITE_GROUPS:
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


def _first_call(corrupted: str, subject: str, into: str, value: float, samples: int) -> tuple[str, dict[str, Any]]:
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
    if name in _DISTRIBUTION_METRICS:
        chosen = _DISTRIBUTION_METRICS[name]()
    elif name in _ANSWER_METRICS or name == "logit_diff":
        if not answer:
            raise InvalidRequestError(f"{name} needs the right token", field="--answer")
        if name == "logit_diff" and not other:
            raise InvalidRequestError("logit_diff needs the wrong token", field="--other")
        chosen = (
            _ANSWER_METRICS[name](token_of(answer))
            if name in _ANSWER_METRICS
            else metric_forms.logit_diff(token_of(answer), token_of(other))
        )
    else:
        raise InvalidRequestError(f"there is no metric {name!r}", field="--metric", valid=METRICS)
    return chosen.normalised() if normalise else chosen


def token_of(text: str) -> str | int:
    """A token's text; #42 is the id 42."""
    return int(text[1:]) if text.startswith("#") and text[1:].isdecimal() else text


def _parse_positions(text: str, option: str) -> Any:
    """None where nothing was said, each, all, or whole numbers."""
    if not text:
        return None
    return text if text in (EACH, "all") else parse_numbers(text, option)


def _load_partial(experiment_run: Experiment, kept: Path | None) -> SweepResult:
    """A result to fill: what an earlier run of the same experiment left in the file."""
    if kept is None or not kept.exists():
        return SweepResult(experiment_run)
    found = SweepResult.load(kept)
    if found.experiment != experiment_run:
        raise InvalidRequestError(f"{kept} holds the result of another experiment", field="--save")
    return found


def _print(result: SweepResult, criterion_given: Criterion | None, *, as_json: bool) -> None:
    if as_json:
        printed = result.to_json()
        if criterion_given is not None:
            printed["criterion"] = {name: result[name].by(criterion_given).values.tolist() for name in result.names}
        out.print_json(json.dumps(printed))
    else:
        out.print(result.table())
        for name in result.names:
            out.print(_mean_over_pairs(result[name]).table())
            if criterion_given is not None:
                out.print(_mean_over_pairs(result[name].by(criterion_given)).table())


def _draw(drawn: tuple[SweepResult, Criterion | None], path: Path) -> list[Path]:
    """A picture for each grid, of what a criterion says where there is one."""
    result, criterion_given = drawn
    scores = {
        name: result[name] if criterion_given is None else result[name].by(criterion_given) for name in result.names
    }
    return draw_each({name: _mean_over_pairs(each) for name, each in scores.items()}, path)


def draw_each(scores: Mapping[str, Scores], path: Path) -> list[Path]:
    """A picture for each grid: `path` for one, its name with that of the grid for several. Gives the files."""
    paths: list[Path] = []
    for name, each in scores.items():
        paths.append(path if len(scores) == 1 else path.with_stem(f"{path.stem}-{name.replace('#', '-')}"))
        each.plot(paths[-1])
    return paths


def _mean_over_pairs(scores: Scores) -> Scores:
    """Of several pairs, which are samples of noise here, the mean."""
    return scores.mean("pair") if "pair" in scores.dims else scores
