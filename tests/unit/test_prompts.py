"""neuroscope.vocabulary.prompts: the forms in which users write what the model reads."""

import numpy as np
import pytest

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens
from neuroscope.vocabulary.prompts import to_message, to_messages, token_ids

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def kinds(prompt) -> list[str | None]:
    return [message.WhichOneof("content") for message in to_messages(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("text", ["text"]),
        ([1, 2, 3], ["token_ids"]),
        ((1, 2, 3), ["token_ids"]),
        (range(3), ["token_ids"]),
        (np.array([1, 2, 3]), ["token_ids"]),
        ([np.int64(1), np.int64(2)], ["token_ids"]),
        (Tokens([1, 2], ["a", "b"]), ["token_ids"]),
        (CHAT, ["chat"]),
        (pb.Prompt(text="x"), ["text"]),
        (["a", "b"], ["text", "text"]),
        ([[1, 2], [3]], ["token_ids", "token_ids"]),
        (np.array([[1, 2], [3, 4]]), ["token_ids", "token_ids"]),
        ([CHAT, CHAT], ["chat", "chat"]),
        (["a", [1, 2], CHAT, np.array([3])], ["text", "token_ids", "chat", "token_ids"]),
        ((text for text in ("a", "b")), ["text", "text"]),
        ("", ["text"]),
    ],
)
def test_forms(prompt, expected):
    assert kinds(prompt) == expected


def test_contents():
    text, ids, chat = to_messages(["Grüße", [464, 3139], CHAT])
    assert text.text == "Grüße"
    assert list(ids.token_ids.ids) == [464, 3139]
    assert [(message.role, message.content) for message in chat.chat.messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
    ]
    assert not chat.chat.omit_generation_prompt


@pytest.mark.parametrize(
    ("bos", "policy"),
    [(None, pb.BOS_POLICY_UNSPECIFIED), (True, pb.BOS_POLICY_ADD), (False, pb.BOS_POLICY_OMIT)],
)
def test_beginning_of_sequence(bos, policy):
    assert [message.bos for message in to_messages(["a", [1]], bos)] == [policy, policy]


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ([], "prompt"),
        (None, "prompt"),
        (7, "prompt"),
        ({"role": "user", "content": "x"}, "prompt"),
        (["a", 5], "prompts[1]"),
        (["a", []], "prompts[1]"),
        ([True, False], "prompts[0]"),
        ([1, "a"], "prompt[1]"),
        ([1, -5], "prompt[1]"),
        ([1, 2**32], "prompt[1]"),
        ([1, 2.0], "prompt[1]"),
        (np.array([1.5]), "prompt[0]"),
        ([{"role": "user"}], "prompt[0].content"),
        ([{"role": 3, "content": "x"}], "prompt[0].role"),
        ([{"role": "user", "content": "x", "name": "y"}], "prompt[0].name"),
        ([{"role": "user", "content": "x"}, "y"], "prompt[1]"),
        ([[{"role": "user", "content": None}]], "prompts[0][0].content"),
    ],
)
def test_mistakes_name_the_place(prompt, field):
    with pytest.raises(InvalidRequestError) as caught:
        to_messages(prompt)
    assert caught.value.field == field


def test_one_prompt_where_one_is_wanted():
    assert to_message("a").text == "a"
    with pytest.raises(InvalidRequestError, match="one prompt is wanted here, not 2"):
        to_message(["a", "b"])  # pyright: ignore[reportArgumentType]


def test_token_ids_of_any_integer_type():
    assert token_ids(np.array([1, 2], np.uint16)) == [1, 2]
    assert token_ids(iter([1, np.int32(2)])) == [1, 2]
    with pytest.raises(InvalidRequestError) as caught:
        token_ids([1, None], "stop_token_ids")  # pyright: ignore[reportArgumentType]
    assert caught.value.field == "stop_token_ids[1]"
