"""An example of a dataset: a clean and a corrupted prompt, and two answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, cast

from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.vocabulary import prompts

Text: TypeAlias = "str | tuple[int, ...]"
"""A prompt: a text, or token ids."""


@dataclass(frozen=True, slots=True)
class Example:
    """A pair of prompts and two answers."""

    clean: Text
    """The clean prompt."""
    corrupted: Text
    """The corrupted prompt, with the same number of tokens."""
    answer: str | int
    """The answer to the clean prompt: text, including its leading space, or a token id."""
    other: str | int
    """The answer to the corrupted prompt, or a wrong answer to the clean one."""

    @classmethod
    def from_json(cls, value: Any, field: str) -> Example:
        """Reads an object {clean, corrupted, answer, other}.

        Raises:
            InvalidRequestError: a field is missing, unknown, or neither text nor token ids.
        """
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"a pair is an object {{{', '.join(FIELDS)}}}, not {value!r}", field=field)
        given = cast("Mapping[str, Any]", value)
        check_names(given, field)
        return cls(
            _text(given["clean"], f"{field}.clean"),
            _text(given["corrupted"], f"{field}.corrupted"),
            _token(given["answer"], f"{field}.answer"),
            _token(given["other"], f"{field}.other"),
        )

    def to_json(self) -> dict[str, Any]:
        """The example as a JSON object."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}


FIELDS = tuple(each.name for each in fields(Example))


def check_names(given: Collection[str], field: str, optional: Iterable[str] = ()) -> None:
    """Checks that an example has all its fields, and no others but optional ones.

    Raises:
        InvalidRequestError: a field is missing or unknown; the message names it.
    """
    names = (*FIELDS, *optional)
    for name in given:
        if name not in names:
            close = nearest(str(name), names)
            raise InvalidRequestError(
                f"a pair has no field {name!r}; nearest: {', '.join(close)}", field=f"{field}.{name}", valid=close
            )
    for name in FIELDS:
        if name not in given:
            raise InvalidRequestError(f"the pair has no {name!r}", field=f"{field}.{name}", valid=FIELDS)


@dataclass(frozen=True, slots=True)
class Pair:
    """A tokenised example."""

    example: Example
    clean_ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    answer_id: int
    other_id: int

    @property
    def clean(self) -> Text:
        """The clean prompt."""
        return self.example.clean

    @property
    def corrupted(self) -> Text:
        """The corrupted prompt."""
        return self.example.corrupted

    @property
    def answer(self) -> str | int:
        """The answer to the clean prompt."""
        return self.example.answer

    @property
    def other(self) -> str | int:
        """The answer to the corrupted prompt, or a wrong answer to the clean one."""
        return self.example.other


def _text(value: Any, field: str) -> Text:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, (list, tuple)) and value:
        return tuple(prompts.token_ids(cast("list[int]", value), field))
    raise InvalidRequestError(f"a prompt is a text or a list of token ids, not {value!r}", field=field)


def _token(value: Any, field: str) -> str | int:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise InvalidRequestError(f"an answer is a text or a token id, not {value!r}", field=field)


def _plain(value: Any) -> Any:
    return list(cast("tuple[int, ...]", value)) if isinstance(value, tuple) else value
