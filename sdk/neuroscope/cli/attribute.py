"""`neuroscope attribute`: what gradients say of places, edges and inputs, from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neuroscope.cli.arguments import read_prompt
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import out
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import Saver, pictures
from neuroscope.cli.sweep import METRICS, draw_each, metric_of
from neuroscope.experiments.attribution import METHODS, Attribution, attribution
from neuroscope.experiments.attribution_result import AttributionResult

_SAVER: Saver[AttributionResult] = Saver(
    {
        ".json": AttributionResult.save,
        **pictures(lambda result, path: draw_each({name: result[name] for name in result.names}, path)),
    }
)


def attribute(
    context: typer.Context,
    clean: Annotated[str, typer.Argument(metavar="CLEAN", help="The prompt with the behaviour.")] = "",
    corrupted: Annotated[
        str, typer.Argument(metavar="[CORRUPTED]", help="The prompt without it, with as many tokens.")
    ] = "",
    answer: Annotated[str, typer.Option("--answer", "-a", help="The right token, its leading space included.")] = "",
    other: Annotated[str, typer.Option("--other", help="The wrong one, for logit_diff.")] = "",
    by: Annotated[str, typer.Option("--method", help=f"One of {', '.join(METHODS)}.")] = METHODS[0],
    steps: Annotated[int, typer.Option(min=0, help="Inputs that gradients are averaged over; 0: the default.")] = 0,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", "-s", help="What attribution-patching scores, such as head_output:head,position."),
    ] = None,
    metric: Annotated[str, typer.Option(help=f"One of {', '.join(METRICS)}.")] = "logit_diff",
    into: Annotated[str, typer.Option(help="The run that gradients are those of: clean or corrupted.")] = "",
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Scores as shares of the difference between both runs.")
    ] = False,
    experiment: Annotated[
        Path | None, typer.Option("--experiment", metavar="FILE", help="An attribution in JSON, in place of all that.")
    ] = None,
    save: Annotated[list[Path] | None, _SAVER.option("the result or pictures (FILE-NAME of several)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the result as JSON.")] = False,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Scores heads, MLPs, edges or inputs by the gradient of a metric, in the time of a few forward passes."""
    _SAVER.check(save)
    connection = Connection.of(context, target, local, trace)
    with connection.open("attribute") as client:
        if experiment is not None:
            wanted = Attribution.load(experiment)
            wanted.request.model_id = connection.model_id(client, model or wanted.request.model_id)
        else:
            wanted = attribution(
                read_prompt(clean),
                corrupted or None,
                metric_of(metric, answer, other, normalise=normalise),
                method=by,
                steps=steps,
                places=site or (),
                into=into,
                each_pair=False,
                model_id=connection.model_id(client, model),
                bos=None,
            )
        result = client.attribute(wanted, progress=not as_json)
    if as_json:
        out.print_json(json.dumps(result.to_json()))
    else:
        out.print(result.table())
    _SAVER.write(result, save)
