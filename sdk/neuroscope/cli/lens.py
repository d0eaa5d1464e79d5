"""`neuroscope lens`: what each layer would predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroscope.activations.layer_predictions import LayerPredictions
from neuroscope.cli.arguments import read_prompt
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import out
from neuroscope.cli.edits import EDIT_HELP, EDITS_HELP, parse_edits
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import Saver, pictures

_SAVER: Saver[LayerPredictions] = Saver(pictures(LayerPredictions.plot))


def lens(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads standard input.")],
    token: Annotated[
        list[str] | None,
        typer.Option("--rank", metavar="TOKEN", help="A token whose rank in every layer is shown; repeat it."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Likeliest tokens that are shown.")] = 5,
    position: Annotated[int, typer.Option(help="The position that is shown; negative from the end.")] = -1,
    save: Annotated[list[Path] | None, _SAVER.option("a picture of all positions")] = None,
    edit: Annotated[list[str] | None, typer.Option("--edit", metavar="EDIT", help=EDIT_HELP)] = None,
    edits: Annotated[Path | None, typer.Option("--edits", metavar="FILE", help=EDITS_HELP)] = None,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Shows what each layer would predict if it were the last one (the logit lens)."""
    _SAVER.check(save)
    text = read_prompt(prompt)
    interventions = parse_edits(edit or (), edits)
    connection = Connection.of(context, target, local, trace)
    with connection.open("lens") as client:
        model_id = connection.model_id(client, model)
        positions = None if save else position
        seen = client.logit_lens(
            text,
            top_k=top_k,
            tokens=token or (),
            positions=positions,
            interventions=interventions,
            model_id=model_id,
        )
    out.print(seen.table(position if save else 0))
    _SAVER.write(seen, save)
