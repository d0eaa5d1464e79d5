"""`neuroscope generate`: text, with what was captured and edited on the way."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from neuroscope.activations.stream import GeneratedToken
from neuroscope.calls.running_generation import Generation
from neuroscope.cli.arguments import (
    BIAS_HELP,
    HOOK_HELP,
    KvBitsOption,
    KvGroupSizeOption,
    conversation,
    parse_bias,
    parse_hooks,
    read_option_file,
    read_prompt,
)
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import err, out
from neuroscope.cli.edits import EDIT_HELP, EDITS_HELP, STEER_HELP, parse_edits, parse_steering
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import CACHE
from neuroscope.interventions import describe
from neuroscope.tracing.waterfall import format_bytes, format_duration
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import dtype_name
from neuroscope.wire.frames import TensorPiece

_BAR_WIDTH = 12


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads standard input.")],
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw", help="As a chat message or as it is; by default chat if the model has a template."
        ),
    ] = None,
    system: Annotated[str, typer.Option(help="System message of a chat.")] = "",
    hook: Annotated[list[str] | None, typer.Option("--hook", metavar="SITE", help=HOOK_HELP)] = None,
    hook_id: Annotated[list[str] | None, typer.Option(metavar="ID", help="A hook stored at the service.")] = None,
    edit: Annotated[list[str] | None, typer.Option("--edit", metavar="EDIT", help=EDIT_HELP)] = None,
    edits: Annotated[Path | None, typer.Option("--edits", metavar="FILE", help=EDITS_HELP)] = None,
    steer: Annotated[list[str] | None, typer.Option("--steer", metavar="DIRECTION", help=STEER_HELP)] = None,
    save: Annotated[list[Path] | None, CACHE.option("what was captured")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Smallest set of tokens of this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="This many likeliest tokens; 0: all.")] = 0,
    min_p: Annotated[float, typer.Option(min=0, max=1, help="Share of the likeliest token's probability.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draws.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the generation.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Texts, with the seeds SEED, SEED + 1, ...")] = 1,
    presence_penalty: Annotated[float, typer.Option(help="Off the logits of tokens that are there already.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same for each time that they are there.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Divides their logits; 1: none.")] = 1.0,
    penalty_context_size: Annotated[int, typer.Option(min=0, help="Last tokens that penalties see; 0: all.")] = 0,
    logit_bias: Annotated[list[str] | None, typer.Option(metavar="ID:BIAS", help=BIAS_HELP)] = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON schema; the text is JSON that it allows.")
    ] = None,
    grammar: Annotated[Path | None, typer.Option(metavar="FILE", help="A Lark grammar; the text is one of it.")] = None,
    kv_bits: KvBitsOption = None,
    kv_group_size: KvGroupSizeOption = 64,
    model: ModelOption = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Prints a JSON object for each token, then a summary.")
    ] = False,
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Generates text; with hooks, shows for each token what was captured while it was computed; with edits, edited."""
    CACHE.check(save)
    text = read_prompt(prompt)
    hooks = parse_hooks(hook or [])
    interventions = [*parse_edits(edit or (), edits), *parse_steering(steer or ())]
    connection = Connection.of(context, target, local, trace)
    with connection.open("generate") as client:
        model_id = connection.model_id(client, model)
        is_chat = client.model(model_id).model.has_chat_template if chat is None else chat
        generation = client.generate(
            conversation(text, system) if is_chat else text,
            hooks=hooks,
            hook_ids=hook_id or (),
            interventions=interventions,
            model_id=model_id,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed,
            stop=stop or (),
            n=n,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            penalty_context_size=penalty_context_size,
            logit_bias=parse_bias(logit_bias or ()),
            json_schema=None if json_schema is None else read_option_file(json_schema, "--json-schema"),
            grammar=None if grammar is None else read_option_file(grammar, "--grammar"),
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
            keep=bool(save) or not as_json,
        )
        with generation:
            if as_json:
                _print_json(generation)
            elif hooks or hook_id:
                _print_tokens(generation)
            elif n > 1:
                _print_texts(generation)
            else:
                _print_text(generation)
        if not as_json:
            for intervention in interventions:
                err.print(f"edit: {describe(intervention)}", style="dim", soft_wrap=True, markup=False, highlight=False)
            _print_summary(generation)
        CACHE.write(generation.cache, save)


def _print_text(generation: Generation) -> None:
    """The text itself, as it comes."""
    for token in generation:
        sys.stdout.write(token.text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _print_texts(generation: Generation) -> None:
    """Several texts, one after the other, with their seeds."""
    first_seed = generation.started.seed
    for index, text in enumerate(generation.wait().texts):
        err.print(f"seed {(first_seed + index) % 2**64}", style="dim", highlight=False)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _print_tokens(generation: Generation) -> None:
    """A line for each token: what it is, how probable it was, and what arrived with it."""
    out.print(Text(f"{'step':>4}  {'token':<18} {'probability':<{_BAR_WIDTH + 6}} what arrived", "dim"), soft_wrap=True)
    is_several = len(generation.started.prompts) > 1
    for token in generation:
        line = token_line(token)
        out.print(line + Text(f"  text {token.row}", "dim") if is_several else line, soft_wrap=True)
    for text in generation.texts:
        out.print()
        out.print(Text(text))
    out.print()
    out.print(generation.cache)


def token_line(token: GeneratedToken) -> Text:
    """A generated token on one line."""
    probability = math.exp(token.logprob)
    filled = round(probability * _BAR_WIDTH)
    pieces = [piece for pieces in token.activations.values() for piece in pieces]
    length = sum(piece.array.nbytes for piece in pieces)
    return Text.assemble(
        (f"{token.step:>4}  ", "dim"),
        (f"{_token_text(token):<18} ", "bold"),
        ("█" * filled, "green"),
        ("░" * (_BAR_WIDTH - filled), "dim"),
        f" {probability:4.0%}  ",
        (f"{len(pieces)} tensors, {format_bytes(length)}", "cyan"),
        (f"  {_component_counts(pieces)}", "dim"),
    )


def _token_text(token: GeneratedToken) -> str:
    if token.text:
        return repr(token.text)
    return f"‹{token.token_id}›" + (f" {token.finish_reason}" if token.finish_reason else "")


def _component_counts(pieces: Iterable[TensorPiece]) -> str:
    """Components with their number of layers."""
    counts: dict[str, int] = {}
    for piece in pieces:
        counts[piece.spec.site.component] = counts.get(piece.spec.site.component, 0) + 1
    return ", ".join(f"{component} × {count}" if count > 1 else component for component, count in counts.items())


def _print_summary(generation: Generation) -> None:
    """Tokens and speed, on stderr."""
    manifest = generation.manifest
    usage = manifest.usage
    decoded = usage.completion_tokens - 1
    rate = f", {decoded / manifest.decode_ms * 1e3:.1f} tokens/s" if decoded > 0 and manifest.decode_ms > 0 else ""
    prefill, decode = (format_duration(ms * 1e6) for ms in (manifest.prefill_ms, manifest.decode_ms))
    summary = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens, prefill {prefill}, decode {decode}{rate}"
    err.print(summary, style="dim", soft_wrap=True)


def _print_json(generation: Generation) -> None:
    for token in generation:
        activations = {
            hook_id: [_piece_as_dict(piece) for piece in pieces] for hook_id, pieces in token.activations.items()
        }
        _write_json(
            {
                "row": token.row,
                "step": token.step,
                "token_id": token.token_id,
                "text": token.text,
                "logprob": token.logprob,
                "finish_reason": token.finish_reason or None,
                "activations": activations,
            }
        )
    manifest = generation.manifest
    _write_json(
        {
            "text": generation.text,
            "texts": generation.texts,
            "model": generation.started.model_id,
            "seed": generation.started.seed,
            "usage": {
                "prompt_tokens": manifest.usage.prompt_tokens,
                "completion_tokens": manifest.usage.completion_tokens,
            },
            "prefill_ms": manifest.prefill_ms,
            "decode_ms": manifest.decode_ms,
        }
    )


def _piece_as_dict(piece: TensorPiece) -> dict[str, Any]:
    point = Point.from_message(piece.spec.site)
    return {
        "component": point.component,
        "layer": point.layer,
        "is_input": point.is_input,
        "shape": list(piece.array.shape),
        "dtype": dtype_name(piece.spec.dtype),
        "first_position": piece.first_position,
        "bytes": piece.array.nbytes,
        "xxh3_64": f"{piece.checksum:016x}",
    }


def _write_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()
