"""`neuroscope dictionaries`: loads sparse autoencoders and transcoders, shows their features and what they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neuroscope.calls.dictionaries import LoadedDictionary
from neuroscope.cli.arguments import read_prompt
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import err, out
from neuroscope.cli.edits import EDIT_HELP, EDITS_HELP, parse_edits
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import Saver, pictures
from neuroscope.cli.sweep import METRICS, metric_of
from neuroscope.client import Client
from neuroscope.dictionaries import FeatureActivations
from neuroscope.viz.tables import dictionaries_table

app = typer.Typer(no_args_is_help=True)
_SAVER: Saver[FeatureActivations] = Saver(pictures(FeatureActivations.plot))
_NAME = typer.Argument(metavar="DICTIONARY", help="A loaded each, or a folder at the service, which is loaded first.")


@app.command()
def load(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="FOLDER", help="With cfg.json and sae_weights.safetensors.")],
    name: Annotated[str, typer.Option("--name", help="For later requests; by default the last part of the path.")] = "",
    site: Annotated[str, typer.Option("--site", "-s", help="Where it reads; by default as its cfg.json says.")] = "",
    output_site: Annotated[str, typer.Option("--output-site", help="Where a transcoder writes; likewise.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16; by default that of its file.")] = "",
    model: ModelOption = "",
    target: TargetOption = None,
    trace: TraceOption = None,
) -> None:
    """Loads a dictionary into a running service."""
    connection = Connection.of(context, target, False, trace)
    with connection.open("dictionaries") as client:
        loaded = client.dictionaries.load(
            path,
            dictionary_id=name,
            model_id=connection.model_id(client, model),
            site=site or None,
            output_site=output_site or None,
            dtype=dtype,
        )
    out.print(dictionaries_table([loaded]))


@app.command("list")
def list_loaded(context: typer.Context, target: TargetOption = None, trace: TraceOption = None) -> None:
    """Lists the dictionaries of a running service."""
    connection = Connection.of(context, target, False, trace)
    with connection.open("dictionaries") as client:
        out.print(dictionaries_table(client.dictionaries))


@app.command()
def unload(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DICTIONARY")],
    target: TargetOption = None,
    trace: TraceOption = None,
) -> None:
    """Frees a dictionary of a running service."""
    connection = Connection.of(context, target, False, trace)
    with connection.open("dictionaries") as client:
        client.dictionaries.unload(name)
    err.print(f"unloaded: {name}", style="dim", soft_wrap=True)


@app.command()
def features(
    context: typer.Context,
    name: Annotated[str, _NAME],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads standard input.")],
    top: Annotated[int, typer.Option(min=1, help="Features at each position.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Prints a row for every active feature as JSON.")] = False,
    save: Annotated[list[Path] | None, _SAVER.option("a picture")] = None,
    edit: Annotated[list[str] | None, typer.Option("--edit", metavar="EDIT", help=EDIT_HELP)] = None,
    edits: Annotated[Path | None, typer.Option("--edits", metavar="FILE", help=EDITS_HELP)] = None,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Shows the most active features at each position of a prompt."""
    _SAVER.check(save)
    text, interventions = read_prompt(prompt), parse_edits(edit or (), edits)
    connection = Connection.of(context, target, local, trace)
    with connection.open("dictionaries") as client:
        dictionary = _load_or_get(client, name, connection.model_id(client, model))
        seen = dictionary.features(text, top=top, interventions=interventions)
    if as_json:
        out.print_json(json.dumps(list(seen.records())))
    else:
        out.print(seen.table(top))
    _SAVER.write(seen, save)


@app.command()
def attribute(
    context: typer.Context,
    name: Annotated[str, _NAME],
    clean: Annotated[str, typer.Argument(metavar="CLEAN", help="The prompt with the behaviour.")],
    corrupted: Annotated[
        str, typer.Argument(metavar="[CORRUPTED]", help="The prompt without it; none: feature x gradient.")
    ] = "",
    answer: Annotated[str, typer.Option("--answer", "-a", help="The right token, its leading space included.")] = "",
    other: Annotated[str, typer.Option("--other", help="The wrong one, for logit_diff.")] = "",
    metric: Annotated[str, typer.Option(help=f"One of {', '.join(METRICS)}.")] = "logit_diff",
    top: Annotated[int, typer.Option(min=1, help="Features that are shown.")] = 20,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Scores features at positions by the gradient of a metric, strongest first."""
    connection = Connection.of(context, target, local, trace)
    with connection.open("dictionaries") as client:
        dictionary = _load_or_get(client, name, connection.model_id(client, model))
        scored_by = metric_of(metric, answer, other, normalise=False)
        result = dictionary.attribute(read_prompt(clean), corrupted or None, metric=scored_by)
    for _, place, score in result.top(top):
        position = int(place["position"])
        token = result.tokens[position]
        out.print(f"feature {place['feature']} at {position} {token!r}: {score:+.4g}", highlight=False)


def _load_or_get(client: Client, name: str, model_id: str) -> LoadedDictionary:
    """A loaded dictionary; what is a folder is loaded, unless it is already."""
    loaded = {each.dictionary_id: each for each in client.dictionaries.list(model_id)}
    by_path = {each.description.path: each for each in loaded.values() if each.description.path}
    if name in loaded:
        return loaded[name]
    if name in by_path:
        return by_path[name]
    if Path(name).name != name or Path(name).is_dir():
        return client.dictionaries.load(name, model_id=model_id)
    return client.dictionaries.get(name)
