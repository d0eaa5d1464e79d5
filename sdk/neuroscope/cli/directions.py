"""`neuroscope directions`: finds directions of contrast, and shows what a file has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from neuroscope.cli.arguments import LayersOption, parse_layers
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import err, out
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import Saver, pictures
from neuroscope.contrasts import contrast
from neuroscope.directions import METHODS, Directions
from neuroscope.errors import InvalidRequestError
from neuroscope.vocabulary.prompts import Prompt

app = typer.Typer(no_args_is_help=True)
_SAVER: Saver[Directions] = Saver({".safetensors": Directions.save, **pictures(Directions.plot)})
_PROMPTS_HELP = "a prompt on each line, or .json with a list of texts, conversations or token ids."


@app.command()
def find(
    context: typer.Context,
    positive: Annotated[Path, typer.Option("--positive", metavar="FILE", help=f"Prompts: {_PROMPTS_HELP}")],
    negative: Annotated[Path, typer.Option("--negative", metavar="FILE", help="Prompts without what those have.")],
    save: Annotated[list[Path], _SAVER.option("the directions or a picture of them")],
    site: Annotated[str, typer.Option("--site", "-s", help="A component whose output has no heads.")] = "resid_post",
    layers: LayersOption = "",
    method: Annotated[str, typer.Option(help=f"How: {', '.join(METHODS)}.")] = "mean_difference",
    position: Annotated[int, typer.Option(help="Of each prompt; negative from its end.")] = -1,
    mean_position: Annotated[
        bool, typer.Option("--mean-position", help="The mean over all positions instead.")
    ] = False,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Finds the directions between two sets of prompts, and says how well they tell these apart."""
    _SAVER.check(save)
    positives, negatives = read_prompts(positive, "--positive"), read_prompts(negative, "--negative")
    connection = Connection.of(context, target, local, trace)
    columns = TextColumn("reading prompts"), BarColumn(), MofNCompleteColumn()
    with connection.open("directions") as client, Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        found = contrast(
            client,
            positives,
            negatives,
            site,
            layers=parse_layers(layers),
            method=method,
            position=None if mean_position else position,
            model_id=connection.model_id(client, model),
            progress=lambda done, count: bar.update(task, completed=done, total=count),
        )
    out.print(found.table())
    _SAVER.write(found, save)


@app.command()
def show(file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of directions.")]) -> None:
    """Shows what a file of directions has, and where it comes from."""
    found = Directions.load(file)
    out.print(found.table())
    if provenance := found.provenance:
        sets = f"{len(provenance['positive'])} positive and {len(provenance['negative'])} negative prompts"
        place = "the mean over positions" if provenance["position"] is None else f"position {provenance['position']}"
        out.print(f"{provenance['method']} at {place} of {sets}, model {provenance['model_id']}", highlight=False)
    else:
        out.print("The file does not say where it comes from.")


def read_prompts(file: Path, option: str) -> list[Prompt]:
    """The prompts of a file.

    Raises:
        InvalidRequestError: it cannot be read, or has none; `field` is the option.
    """
    try:
        text = file.read_text()
        listed: Any = json.loads(text) if file.suffix == ".json" else [line for line in text.splitlines() if line]
    except OSError as error:
        raise InvalidRequestError(f"{file}: {error.strerror or error}", field=option) from None
    except ValueError as error:
        raise InvalidRequestError(f"{file} is no text or JSON: {error}", field=option) from None
    if not isinstance(listed, list) or not listed:
        raise InvalidRequestError(f"{file} has no prompts", field=option)
    return cast("list[Prompt]", listed)
