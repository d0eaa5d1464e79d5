"""`neuroscope analyze residual` and `tuned-lens`: the residual stream on some prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroscope.analysis import PARTS, TunedLens
from neuroscope.cli.arguments import read_prompt
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import out
from neuroscope.cli.options import AnalysisTargetOption, LocalOption, ModelOption, TraceOption
from neuroscope.cli.saving import RESULT, Saver
from neuroscope.errors import InvalidRequestError

_LENS: Saver[TunedLens] = Saver({".safetensors": TunedLens.save})


def residual(
    context: typer.Context,
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="Prompts; - reads standard input.")],
    part: Annotated[
        list[str] | None, typer.Option("--part", "-p", help=f"What is found; repeat it: {', '.join(PARTS)}.")
    ] = None,
    answer: Annotated[
        list[str] | None, typer.Option("--answer", "-a", help="What is predicted; by default what the model says.")
    ] = None,
    other: Annotated[list[str] | None, typer.Option("--other", help="What it is compared with.")] = None,
    position: Annotated[int, typer.Option(help="Where the answer is predicted, negative from the end.")] = -1,
    corrupted: Annotated[
        list[str] | None,
        typer.Option("--corrupted", "-c", help="For each prompt one with another answer, for the flow; repeat it."),
    ] = None,
    neurons: Annotated[int, typer.Option(min=0, help="So many of the strongest neurons.")] = 0,
    top_k: Annotated[int, typer.Option(min=0, help="Likeliest tokens of lenses; 0: 5.")] = 0,
    tuned_lens: Annotated[
        Path | None, typer.Option("--tuned-lens", metavar="FILE", help="A lens that `analyze tuned-lens` saved.")
    ] = None,
    save: Annotated[list[Path] | None, RESULT.option("the result or a picture of it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the result as JSON.")] = False,
    model: ModelOption = "",
    target: AnalysisTargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Describes the residual stream: what is written into it, what that does to the answer, who reads it."""
    RESULT.check(save)
    lens = None if tuned_lens is None else TunedLens.load(tuned_lens)
    connection = Connection.of(context, None, local, trace)
    with connection.open_analysis("analyze residual", target, model) as client:
        found = client.analyze_residual_stream(
            [read_prompt(text) for text in prompt],
            parts=part,
            answer=_tokens(answer),
            other=_tokens(other),
            position=position,
            corrupted=corrupted,
            neurons=neurons,
            top_k=top_k,
            tuned_lens=lens,
            model_id="" if connection.local else model,
            progress=not as_json,
        )
    if as_json:
        out.print_json(json.dumps(found.to_json()))
    else:
        out.print(found.table())
        for index in found.lenses:
            out.print(found.lens_table(index))
            if lens is not None:
                out.print(found.lens_table(index, lens="tuned"))
        for flow in found.flows.values():
            out.print(flow.table())
    RESULT.write(found, save)


def tuned_lens(
    context: typer.Context,
    texts: Annotated[Path, typer.Argument(metavar="FILE", help="Texts, one a line.")],
    save: Annotated[list[Path], _LENS.option("the lens")],
    objective: Annotated[str, typer.Option(help="auto, ridge or kl.")] = "auto",
    ridge: Annotated[float, typer.Option(min=0, help="Penalty on translators; 0: 0.001.")] = 0.0,
    held_out_share: Annotated[float, typer.Option(min=0, help="Of the texts; 0: 0.2.")] = 0.0,
    max_iterations: Annotated[int, typer.Option(min=0, help="Of L-BFGS, for each layer; 0: 50.")] = 0,
    model: ModelOption = "",
    target: AnalysisTargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Trains a tuned lens: for each layer a map of its stream to the last one's, tested on held-out texts."""
    _LENS.check(save)
    lines = [line for line in _read(texts).splitlines() if line.strip()]
    connection = Connection.of(context, None, local, trace)
    with connection.open_analysis("analyze tuned-lens", target, model) as client:
        found = client.train_tuned_lens(
            lines,
            objective=objective,
            ridge=ridge,
            held_out_share=held_out_share,
            max_iterations=max_iterations,
            model_id="" if connection.local else model,
            progress=True,
        )
    out.print(found.table())
    _LENS.write(found.lens, save)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path}: {error}", field="FILE") from None


def _tokens(values: list[str] | None) -> Any:
    """Texts; ids where they are numbers."""
    if not values:
        return None
    tokens = [int(value) if value.isdigit() else value for value in values]
    return tokens[0] if len(tokens) == 1 else tokens
