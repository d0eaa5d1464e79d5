"""`neuroscope analyze`: what activations say about how a model works, by the analysis service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neuroscope.analysis import ROLES
from neuroscope.cli import residual
from neuroscope.cli.arguments import read_prompt
from neuroscope.cli.connection import (
    AnalysisTargetOption,
    Connection,
    LocalOption,
    ModelOption,
    TraceOption,
)
from neuroscope.cli.console import err, out
from neuroscope.errors import InvalidRequestError

app = typer.Typer(no_args_is_help=True, help="Interprets a model: attention heads, the residual stream.")
_ENDINGS = (".png", ".svg", ".pdf", ".html", ".htm", ".json")


app.command("residual")(residual.residual)
app.command("tuned-lens")(residual.tuned_lens)


@app.command()
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
    no_test: Annotated[bool, typer.Option("--no-test", help="Labels by score, without ablating the heads.")] = False,
    layers: Annotated[str, typer.Option(help="A list such as 0,3,-1; by default every layer.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the random sequences that roles are scored on.")] = 0,
    sequences: Annotated[int, typer.Option(min=0, help="How many of them; 0: 16.")] = 0,
    save: Annotated[
        list[Path] | None,
        typer.Option("--save", metavar="FILE", help="A picture (.png, .svg, .pdf, .html) or the result (.json)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the result as JSON.")] = False,
    model: ModelOption = "",
    target: AnalysisTargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Describes every attention head: statistics, roles, and whether ablating the head confirms them."""
    for path in save or ():
        if path.suffix.lower() not in _ENDINGS:
            raise InvalidRequestError(f"{path} has none of the endings {', '.join(_ENDINGS)}", field="--save")
    connection = Connection.of(context, None, local, trace)
    with connection.open_analysis("analyze attention", target, model) as client:
        found = client.analyze_attention(
            [read_prompt(text) for text in prompt] if prompt else None,
            layers=_layers(layers),
            roles=() if no_roles else role,
            seed=seed,
            sequences=sequences,
            test=not no_test,
            model_id="" if connection.local else model,
            progress=not as_json,
        )
    if as_json:
        out.print_json(json.dumps(found.to_json()))
    else:
        out.print(found.table())
    for path in save or ():
        if path.suffix.lower() == ".json":
            found.save(path)
        else:
            found.plot(path)
        err.print(f"saved: {path}", style="dim", soft_wrap=True)


def _layers(text: str) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise InvalidRequestError(f"{text!r} are no numbers such as 0,3,-1", field="--layers") from None
