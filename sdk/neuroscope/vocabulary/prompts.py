"""Prompts in any of the forms that users write, as messages of the contract.

    "The capital of France is"                        text
    [464, 3139, 286]                                  token ids; a numpy array or torch tensor too
    [{"role": "user", "content": "Hello"}]            one conversation; messages may have OpenAI's tool_calls
    ["a text", [1, 2, 3], [{"role": ...}]]            a batch: each entry is a row

Text and conversations are tokenised by the service; token ids are taken as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeAlias, TypeGuard, cast

import numpy as np

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary import tools, torch_arrays
from neuroscope.vocabulary.tensors import Array

Prompt: TypeAlias = "str | Sequence[int] | Array | Sequence[Mapping[str, Any]] | pb.Prompt"
"""One prompt: a text, token ids, or the messages of a conversation."""
PromptLike: TypeAlias = "Prompt | Sequence[Prompt]"
"""One prompt, or a batch of them."""

_FORMS = "a prompt is a text, a list of token ids, a list of {'role', 'content'} messages, or a list of these"
_MESSAGE_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name")


def to_messages(prompt: PromptLike, bos: bool | None = None) -> list[pb.Prompt]:
    """The rows of a request.

    Args:
        prompt: one prompt or a batch.
        bos: True puts a beginning-of-sequence token in front, False leaves it out, None does what the tokenizer does
            for text and nothing for token ids and conversations.

    Raises:
        InvalidRequestError: the prompt has none of the forms, or a row is empty.
    """
    if torch_arrays.is_tensor(prompt):
        prompt = torch_arrays.to_numpy(prompt)
    policy = {None: pb.BOS_POLICY_UNSPECIFIED, True: pb.BOS_POLICY_ADD, False: pb.BOS_POLICY_OMIT}[bos]
    if _is_one(prompt):
        return [_to_message(prompt, policy, "prompt")]
    if isinstance(prompt, Mapping) or not isinstance(prompt, Iterable):
        raise InvalidRequestError(f"{_FORMS}, not {prompt!r}", field="prompt")
    rows = [_to_message(row, policy, f"prompts[{index}]") for index, row in enumerate(prompt)]
    if not rows:
        raise InvalidRequestError(f"the prompt is empty; {_FORMS}", field="prompt")
    return rows


def with_tools(rows: Sequence[pb.Prompt], offered: Sequence[pb.Tool], choice: pb.ToolChoice | None) -> list[pb.Prompt]:
    """The rows, each a conversation whose model may call tools.

    Raises:
        InvalidRequestError: a row is no conversation.
    """
    if not all(row.HasField("chat") for row in rows):
        raise InvalidRequestError("tools need a conversation as the prompt", field="tools")
    added = pb.Prompt(chat=pb.Chat(tools=offered, tool_choice=choice))
    written: list[pb.Prompt] = []
    for row in rows:
        prompt = pb.Prompt()
        prompt.CopyFrom(row)
        prompt.MergeFrom(added)
        written.append(prompt)
    return written


def to_message(prompt: Prompt, bos: bool | None = None) -> pb.Prompt:
    """The message of exactly one prompt.

    Raises:
        InvalidRequestError: as `to_messages`, or the prompt is a batch.
    """
    rows = to_messages(prompt, bos)
    if len(rows) != 1:
        raise InvalidRequestError(f"one prompt is wanted here, not {len(rows)}", field="prompt")
    return rows[0]


def token_ids(ids: Iterable[SupportsIndex] | Array, field: str = "token_ids") -> list[int]:
    """Token ids as plain numbers, from a list or an array of any integer type.

    Raises:
        InvalidRequestError: an entry is no integer of 0 to 2^32 - 1.
    """
    ids = torch_arrays.to_numpy(ids) if torch_arrays.is_tensor(ids) else ids
    values: list[Any] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    for index, value in enumerate(values):
        if not _is_id(value) or not 0 <= operator.index(value) < 2**32:
            raise InvalidRequestError(f"a token id is an integer from 0, not {value!r}", field=f"{field}[{index}]")
    return [operator.index(value) for value in values]


def _is_one(prompt: Any) -> TypeGuard[Prompt]:
    if isinstance(prompt, str | pb.Prompt):
        return True
    if isinstance(prompt, np.ndarray):
        return prompt.ndim == 1
    entries = cast("Sequence[Any]", prompt if isinstance(prompt, Sequence) else ())
    return len(entries) > 0 and (_is_id(entries[0]) or isinstance(entries[0], Mapping))


def _to_message(prompt: Any, policy: pb.BosPolicy.ValueType, field: str) -> pb.Prompt:
    if isinstance(prompt, pb.Prompt):
        return prompt
    if isinstance(prompt, str):
        return pb.Prompt(text=prompt, bos=policy)
    if not _is_one(prompt):
        raise InvalidRequestError(f"{_FORMS}, not {prompt!r}", field=field)
    entries = cast("list[Any]", prompt.tolist() if isinstance(prompt, np.ndarray) else list(cast("Any", prompt)))
    if entries and isinstance(entries[0], Mapping):
        messages = [_chat_message(entry, f"{field}[{index}]") for index, entry in enumerate(entries)]
        return pb.Prompt(chat=pb.Chat(messages=messages), bos=policy)
    return pb.Prompt(token_ids=pb.TokenIds(ids=token_ids(entries, field)), bos=policy)


def _chat_message(message: Any, field: str) -> pb.ChatMessage:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(f"a message is {{'role', 'content'}}, not {message!r}", field=field)
    fields = cast("Mapping[str, Any]", message)
    unknown = sorted(set(fields) - set(_MESSAGE_FIELDS))
    if unknown:
        raise InvalidRequestError(
            f"unknown field {unknown[0]!r}; valid: {', '.join(_MESSAGE_FIELDS)}",
            field=f"{field}.{unknown[0]}",
            valid=_MESSAGE_FIELDS,
        )
    for name in ("tool_call_id", "name"):
        if fields.get(name) and fields.get("role") != "tool":
            raise InvalidRequestError(f"only a message of the role tool has {name!r}", field=f"{field}.{name}")
    calls = fields.get("tool_calls") or ()
    texts: dict[str, str] = {}
    for name in ("role", "content", "tool_call_id", "name"):
        is_optional = name in ("tool_call_id", "name") or (name == "content" and calls)
        text: Any = fields.get(name) or "" if is_optional else fields.get(name)
        if not isinstance(text, str):
            raise InvalidRequestError(f"the message has no text {name!r}", field=f"{field}.{name}")
        texts[name] = text
    return pb.ChatMessage(**texts, tool_calls=tools.to_calls(calls, f"{field}.tool_calls"))


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
