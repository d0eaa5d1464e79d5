"""`neuroscope lens`: what each layer would predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroscope.cli.arguments import read_prompt
from neuroscope.cli.connection import Connection, LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.console import err, out
from neuroscope.cli.edits import EDIT_HELP, EDITS_HELP, parse_edits


def lens(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads standard input.")],
    token: Annotated[
        list[str] | None, typer.Option("--token", help="A token whose rank in every layer is shown; repeat it.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Likeliest tokens that are shown.")] = 5,
    position: Annotated[int, typer.Option(help="The position that is shown; negative from the end.")] = -1,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="A picture of all positions: .png, .svg or .pdf.")
    ] = None,
    edit: Annotated[list[str] | None, typer.Option("--edit", metavar="EDIT", help=EDIT_HELP)] = None,
    edits: Annotated[Path | None, typer.Option("--edits", metavar="FILE", help=EDITS_HELP)] = None,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Shows what each layer would predict if it were the last one (the logit lens)."""
    text = read_prompt(prompt)
    interventions = parse_edits(edit or (), edits)
    connection = Connection.of(context, target, local, trace)
    with connection.open("lens") as client:
        model_id = connection.model_id(client, model)
        positions = None if save is not None else position
        seen = client.logit_lens(
            text,
            top_k=top_k,
            tokens=token or (),
            positions=positions,
            interventions=interventions,
            model_id=model_id,
        )
    out.print(seen.table(position if save is not None else 0))
    if save is not None:
        seen.plot(save)
        err.print(f"saved: {save}", style="dim", soft_wrap=True)
