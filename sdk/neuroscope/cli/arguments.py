"""Prompts and hooks as they are written on a command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import typer

from neuroscope.errors import InvalidRequestError
from neuroscope.vocabulary.hooks import REST_FIELDS, Hook, HookLike

Messages: TypeAlias = "list[dict[str, str]]"

HOOK_HELP = (
    "What to capture; repeat it, or separate by commas: resid_post (every layer), attention_pattern.3,"
    " blocks.5.hook_resid_post, or a JSON object such as"
    ' \'{"component": "head_output", "layer": 3, "heads": [0, 7], "positions": [-1]}\'.'
)
KvBitsOption = Annotated[
    int | None, typer.Option(help="Keeps keys and values in so many bits: 2, 3, 4, 5, 6 or 8; by default as they are.")
]
KvGroupSizeOption = Annotated[int, typer.Option(help="Numbers that share a scale: 32, 64 or 128.")]
LayersOption = Annotated[
    str, typer.Option("--layers", "-l", help="A list such as 0,3,-1, or ranges such as 4-7; by default every layer.")
]
HeadsOption = Annotated[str, typer.Option("--heads", help="A list such as 0,3, or ranges such as 4-7; by default all.")]
BIAS_HELP = "Added to a token's logit: ID:BIAS, such as 42:-100; repeat it."
_RANGE = re.compile(r"(-?\d+)(?:-(\d+))?")
_HOOK_FIELDS = tuple(field.name for field in fields(Hook))


def read_prompt(prompt: str) -> str:
    """The prompt, which `-` takes from standard input.

    Raises:
        InvalidRequestError: it is empty.
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise InvalidRequestError("the prompt is empty", field="PROMPT")
    return text


def read_option_file(file: Path, option: str) -> str:
    """The text of a file that an option names.

    Raises:
        InvalidRequestError: it cannot be read; `field` is the option.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"{file}: {error.strerror or error}", field=option) from None
    except ValueError as error:
        raise InvalidRequestError(f"{file} is no text: {error}", field=option) from None


def conversation(prompt: str, system: str = "") -> Messages:
    """A user's message, after a system message if there is one."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": prompt}]


def parse_hooks(values: Sequence[str], option: str = "--hook") -> list[HookLike]:
    """The hooks of an option that was given several times.

    Raises:
        InvalidRequestError: a JSON object is malformed, or has a field that a hook has not.
    """
    hooks: list[HookLike] = []
    for value in values:
        if value.lstrip().startswith("{"):
            hooks.append(_from_json(value, option))
        else:
            hooks.extend(name.strip() for name in value.split(",") if name.strip())
    return hooks


def parse_layers(text: str) -> list[int] | None:
    """The layers of `--layers`; None: every layer.

    Raises:
        InvalidRequestError: as `parse_numbers`.
    """
    return parse_numbers(text, "--layers")


def parse_numbers(text: str, option: str) -> list[int] | None:
    """Numbers and ranges of an option, such as 0,4-7,-1; None where nothing is given.

    Raises:
        InvalidRequestError: it is no such list.
    """
    numbers: list[int] = []
    for part in text.split(",") if text else ():
        match = _RANGE.fullmatch(part.strip())
        chosen = range(int(match[1]), int(match[2] or match[1]) + 1) if match else ()
        if not chosen:
            raise InvalidRequestError(f"{text!r} is not a list such as 0,3,-1 or 4-7", field=option)
        numbers += chosen
    return numbers if text else None


def parse_bias(values: Sequence[str], option: str = "--logit-bias") -> dict[int, float]:
    """Biases by token id, of an option that was given several times.

    Raises:
        InvalidRequestError: a value is not ID:BIAS.
    """
    biases: dict[int, float] = {}
    for value in values:
        token, _, bias = value.partition(":")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise InvalidRequestError(f"{value!r} is not ID:BIAS, such as 42:-100", field=option) from None
    return biases


def _from_json(text: str, option: str) -> HookLike:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(f"{text} is not JSON: {error}", field=option) from None
    hook = cast("Mapping[str, Any]", parsed)
    if set(hook) <= set(REST_FIELDS):
        return hook
    unknown = sorted(set(hook) - set(_HOOK_FIELDS))
    if unknown:
        valid = tuple(dict.fromkeys((*_HOOK_FIELDS, *REST_FIELDS)))
        raise InvalidRequestError(
            f"a hook has no {unknown[0]!r}; fields: {', '.join(valid)}", field=option, valid=valid
        )
    if "component" not in hook:
        raise InvalidRequestError("a hook needs a component", field=option)
    return Hook(**hook)
