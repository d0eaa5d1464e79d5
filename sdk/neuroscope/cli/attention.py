"""`neuroscope analyze attention`: scores at once, then the tests of labels; Ctrl-C keeps what is done."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroscope.analysis import ROLES, AttentionResult, read_pairs
from neuroscope.analysis.attention_requests import attention_request
from neuroscope.base_client.progress import analysis_listener
from neuroscope.cli.arguments import LayersOption, parse_layers, read_prompt
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import err, out
from neuroscope.cli.options import (
    AnalysisTargetOption,
    LocalOption,
    ModelOption,
    PairsOption,
    SeedOption,
    SequencesOption,
    TraceOption,
)
from neuroscope.cli.saving import RESULT, Saver, pictures
from neuroscope.errors import InvalidRequestError

_INTERRUPTED = 130


def _plot(drawn: tuple[Any, list[str] | None], path: Path) -> None:
    found, statistics = drawn
    if isinstance(found, AttentionResult):
        found.plot(path, statistics=statistics)
    else:
        found.plot(path)


_SAVER: Saver[tuple[Any, list[str] | None]] = Saver(
    {".json": lambda drawn, path: drawn[0].save(path), **pictures(_plot, ".html", ".htm")}
)


def attention(
    context: typer.Context,
    prompt: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROMPT]...", help="Prompts whose patterns are described; - reads standard input."),
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option("--role", "-r", help=f"A role that is scored; repeat it: {', '.join(ROLES)}.")
    ] = None,
    no_roles: Annotated[bool, typer.Option("--no-roles", help="Statistics of the prompts alone.")] = False,
    no_test: Annotated[bool, typer.Option("--no-test", help="Labels by score, without testing the heads.")] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Tests every label in every way on every sequence; takes longer.")
    ] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Compares two prompts, head by head.")] = False,
    every_label: Annotated[
        bool, typer.Option("--all", help="Prints every label with its evidence, not one line for each head.")
    ] = False,
    statistic: Annotated[
        list[str] | None,
        typer.Option(
            "--statistic",
            metavar="NAME",
            help="Draws heat maps of these arrays instead of the roles, such as entropy or induction_score; repeat it, "
            "or say all.",
        ),
    ] = None,
    pairs: PairsOption = None,
    layers: LayersOption = "",
    seed: SeedOption = 0,
    sequences: SequencesOption = 0,
    save: Annotated[list[Path] | None, RESULT.option("the result or a picture of it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the result as JSON.")] = False,
    model: ModelOption = "",
    target: AnalysisTargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Describes every attention head: statistics, roles, and whether a causal test confirms them.

    Scores are printed first, then tests run; Ctrl-C ends them and keeps what is done. With --pairs name movers and
    S-inhibition heads, too; with --compare how two prompts differ.
    """
    RESULT.check(save)
    prompts = [read_prompt(text) for text in prompt or ()]
    named = read_pairs(pairs) if pairs else None
    connection = Connection.of(context, None, local, trace)
    model_id = "" if connection.local else model
    if compare and len(prompts) != 2:
        raise InvalidRequestError(f"--compare takes two prompts, not {len(prompts)}", field="--compare")
    is_interrupted = False
    with connection.open_analysis("analyze attention", target, model) as client:
        if compare:
            found: Any = client.compare_attention(
                *prompts, layers=parse_layers(layers), model_id=model_id, progress=not as_json
            )
        else:
            found = AttentionResult(
                attention_request(
                    prompts or None,
                    layers=parse_layers(layers),
                    roles=() if no_roles else role,
                    thresholds=None,
                    seed=seed,
                    sequences=sequences,
                    block_length=0,
                    token_ids=(),
                    test=not no_test,
                    least_effect_nats=0.0,
                    significance=0.0,
                    complete=complete,
                    named_pairs=named,
                    model_id=model_id,
                    bos=None,
                )
            )
            try:
                _follow(client, found, is_quiet=as_json)
            except KeyboardInterrupt:
                if found.plan is None or not found.labels:
                    raise
                is_interrupted = True
    if as_json:
        out.print_json(json.dumps(found.to_json()))
    elif compare or no_roles:
        out.print(found.table())
    else:
        out.print(found.label_table() if every_label else found.table())
        out.print(found.summary_table())
    _SAVER.write((found, statistic), save)
    if is_interrupted:
        untested = sum(label.verdict == "not tested" for label in found.labels)
        err.print(f"interrupted: {untested} of {len(found.labels)} labels are not tested", style="dim", soft_wrap=True)
        raise typer.Exit(_INTERRUPTED)


def _follow(client: Any, found: AttentionResult, *, is_quiet: bool) -> None:
    """Runs the analysis to its end, with the scores printed as soon as they are there."""
    with closing(client.events(found)) as events:
        while _has_scores(found, events, is_quiet=is_quiet):
            if not is_quiet and not found.request.causal_test.skip:
                out.print(found.summary_table())
    found.finish()


def _has_scores(found: AttentionResult, events: Any, *, is_quiet: bool) -> bool:
    """Whether scores have come; False at the end. A bar shows progress until then."""
    with analysis_listener(not is_quiet) as report:
        for event in events:
            if event.HasField("progress"):
                report(event.progress)
            elif event.partial.HasField("scores"):
                return True
    return False
