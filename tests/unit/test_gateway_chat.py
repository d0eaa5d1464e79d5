"""Chat completions over REST.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_chat.py"""

import json
from typing import Any

import httpx
import pytest

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from tests.support.fake_inference import FakeInference, Token

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello!"}]


def ask(http: httpx.Client, **parameters: Any) -> httpx.Response:
    return http.post(PATH, json={"messages": HELLO} | parameters)


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream, [DONE] as a string."""
    assert response.headers["content-type"].startswith("text/event-stream")
    frames = response.text.split("\n\n")
    assert frames.pop() == ""
    data = [frame.removeprefix("data: ") for frame in frames]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def test_a_completion_has_openais_shape(http: httpx.Client) -> None:
    response = ask(http, model="tiny")
    assert response.status_code == 200
    answer = response.json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello!"},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7},
    }


def test_every_parameter_reaches_the_service(http: httpx.Client, fake: FakeInference) -> None:
    response = ask(
        http,
        model="tiny",
        max_completion_tokens=2,
        temperature=0.5,
        top_p=0.25,
        top_k=3,
        min_p=0.125,
        seed=-1,
        stop=["a", "b"],
        logprobs=True,
        top_logprobs=2,
        kv_bits=4,
        kv_group_size=32,
        n=3,
        presence_penalty=0.5,
        frequency_penalty=-0.25,
        repetition_penalty=1.5,
        penalty_context_size=20,
        penalize_generated_only=True,
        logit_bias={"5": -100, "7": 1.5},
    )
    assert response.status_code == 200
    request: pb.GenerateRequest = fake.requests[-1]
    sampling = request.sampling
    assert request.model_id == "tiny"
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (2, 0.5, 0.25)
    assert (sampling.top_k, sampling.min_p, sampling.seed) == (3, 0.125, 2**64 - 1)
    assert (list(sampling.stop), sampling.top_logprobs) == (["a", "b"], 2)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -0.25, 1.5)
    assert (sampling.penalty_context_size, sampling.penalize_generated_only) == (20, True)
    assert (dict(sampling.logit_bias), sampling.rows_per_prompt) == ({5: -100.0, 7: 1.5}, 3)
    assert (request.cache_quantization.bits, request.cache_quantization.group_size) == (4, 32)


def test_a_conversation_reaches_the_service(http: httpx.Client, fake: FakeInference) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        # What a client appends when it has read an answer.
        {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": ""},
    ]
    assert ask(http, messages=conversation).status_code == 200
    messages = fake.requests[-1].prompts[0].chat.messages
    assert [(message.role, message.content) for message in messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
        ("assistant", "Hi"),
        ("user", ""),
    ]


def test_what_is_left_out_is_left_to_the_service(http: httpx.Client, fake: FakeInference) -> None:
    ask(http)
    request: pb.GenerateRequest = fake.requests[-1]
    assert request.model_id == ""
    assert request.sampling.max_tokens == 0
    assert request.sampling.temperature == 0
    assert not request.sampling.HasField("seed")
    assert not request.hooks


@pytest.mark.parametrize(("stop", "sent"), [("end", ["end"]), (["a", "b"], ["a", "b"]), ([], []), (None, [])])
def test_stop_is_a_text_or_a_list(http: httpx.Client, fake: FakeInference, stop: Any, sent: list[str]) -> None:
    assert ask(http, stop=stop).status_code == 200
    assert list(fake.requests[-1].sampling.stop) == sent


def test_the_older_name_of_the_limit(http: httpx.Client, fake: FakeInference) -> None:
    assert ask(http, max_tokens=2).json()["usage"]["completion_tokens"] == 2
    assert ask(http, max_tokens=2, max_completion_tokens=2).status_code == 200
    response = ask(http, max_tokens=2, max_completion_tokens=3)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "max_tokens")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_error_of_the_service_names_the_parameter_that_was_sent(http: httpx.Client, name: str) -> None:
    response = ask(http, **{name: 20_000})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)


def test_the_end_of_text_is_told(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.finish = pb.FINISH_REASON_STOP
    assert ask(http).json()["choices"][0]["finish_reason"] == "stop"


def test_a_stream_is_openais(http: httpx.Client) -> None:
    *chunks, done = events(ask(http, stream=True))
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {"content": "!"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, None, "length"]


def test_a_stream_counts_tokens_when_asked(http: httpx.Client) -> None:
    *chunks, last, done = events(ask(http, stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}


def test_half_a_character_makes_no_chunk_of_its_own(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.tokens = [Token("", 5), Token("é", 6), Token("", 2)]
    deltas = [chunk["choices"][0]["delta"] for chunk in events(ask(http, stream=True))[:-1]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "é"}, {}]


def test_logprobs(http: httpx.Client) -> None:
    content = ask(http, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == "Hello!"
    assert content[0] == {
        "token": "Hel",
        "logprob": -0.5,
        "bytes": [72, 101, 108],
        "top_logprobs": [
            {"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]},
            {"token": "x", "logprob": -2.0, "bytes": [120]},
        ],
    }


def test_logprobs_without_alternatives(http: httpx.Client) -> None:
    content = ask(http, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert [(entry["token"], entry["top_logprobs"]) for entry in content] == [("Hel", []), ("lo", []), ("!", [])]


def test_a_drawn_token_outside_the_alternatives_is_spelt(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.tokens = [Token("b", 9, -4.0, tops=((8, "a", -0.1),))] * 2
    content = ask(http, logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["<9>", "<9>"]
    assert content[0]["top_logprobs"] == [{"token": "a", "logprob": -0.1, "bytes": [97]}]
    assert sum(isinstance(request, pb.DetokenizeRequest) for request in fake.requests) == 1


def test_logprobs_leave_out_the_token_that_only_ends_the_text(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.tokens = [Token("Hi"), Token("", 2)]
    fake.script.finish = pb.FINISH_REASON_STOP
    answer = ask(http, logprobs=True).json()
    assert [entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]] == ["Hi"]
    assert answer["usage"]["completion_tokens"] == 2


def test_impossible_tokens_have_a_logprob_that_json_can_carry(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.tokens = [Token("Hi", tops=((20, "Hi", -0.5), (30, "�", float("-inf"))))]
    entry = ask(http, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"][0]
    assert entry["top_logprobs"][1] == {"token": "�", "logprob": -9999.0, "bytes": None}


def test_logprobs_that_are_nan_are_an_error(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.tokens = [Token("Hi", logprob=float("nan"))]
    response = ask(http, logprobs=True)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logprobs")


def test_logprobs_stream_with_their_tokens(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.tokens = [Token("Hi"), Token("", 5)]
    chunks = events(ask(http, stream=True, logprobs=True, top_logprobs=1))[:-1]
    entries = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry and entry["content"][0]["token"] for entry in entries] == [None, "Hi", "", None]


def test_several_choices(http: httpx.Client) -> None:
    answer = ask(http, n=2, logprobs=True).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello!", "Hello!"]
    assert [len(choice["logprobs"]["content"]) for choice in answer["choices"]] == [3, 3]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}


def test_several_choices_in_a_stream(http: httpx.Client) -> None:
    *chunks, done = events(ask(http, n=2, stream=True))
    assert done == "[DONE]"
    for index in range(2):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in own) == "Hello!"
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["length"]


HARMLESS = {
    "user": "me",
    "metadata": {"a": "b"},
    "store": False,
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "tools": [],
    "tool_choice": "none",
    "modalities": ["text"],
    "service_tier": "auto",
    "parallel_tool_calls": True,
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "reasoning_effort": None,
    "temperature": None,
    "top_p": None,
    "stop": None,
    "stream": None,
    "stream_options": None,
    "logprobs": None,
    "top_logprobs": None,
    "seed": None,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_is_accepted(http: httpx.Client, name: str) -> None:
    response = ask(http, **{name: HARMLESS[name]})
    assert response.status_code == 200, response.text


TOOL = {"type": "function", "function": {"name": "f"}}
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
UNSUPPORTED = {
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "reasoning_effort": "low",
    "verbosity": "low",
    "web_search_options": {},
    "store": True,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_would_change_the_meaning_is_refused_by_name(http: httpx.Client, name: str) -> None:
    response = ask(http, **{name: UNSUPPORTED[name]})
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert error["type"] == "invalid_request_error"


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Now", "parameters": {"type": "object"}, "strict": True},
}


def test_tools_and_their_results_reach_the_service(http: httpx.Client, fake: FakeInference) -> None:
    conversation = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "2"}], "name": "f"},
        {"role": "assistant", "tool_calls": [{**CALLS[0], "index": 0}]},
        {"role": "assistant", "content": None},
    ]
    assert ask(http, messages=conversation, tools=[TOOL, WEATHER]).status_code == 200
    chat = fake.requests[-1].prompts[0].chat
    called = pb.ToolCall(id="call_1", name="f", arguments='{"a": 1}')
    assert list(chat.messages) == [
        pb.ChatMessage(role="user", content="Hello!"),
        pb.ChatMessage(role="assistant", tool_calls=[called]),
        pb.ChatMessage(role="tool", content="2", tool_call_id="call_1", name="f"),
        pb.ChatMessage(role="assistant", tool_calls=[called]),
        pb.ChatMessage(role="assistant"),
    ]
    assert list(chat.tools) == [
        pb.Tool(name="f"),
        pb.Tool(name="weather", description="Now", parameters='{"type": "object"}', strict=True),
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "sent"),
    [
        (None, None, pb.ToolChoice()),
        ("auto", True, pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO)),
        ("auto", False, pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO, single_call=True)),
        ("none", None, pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)),
        ("required", None, pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)),
        (
            {"type": "function", "function": {"name": "required"}},
            False,
            pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED, name="required", single_call=True),
        ),
    ],
)
def test_a_tool_choice_reaches_the_service(
    http: httpx.Client, fake: FakeInference, choice: Any, parallel: bool | None, sent: pb.ToolChoice
) -> None:
    assert ask(http, tools=[TOOL], tool_choice=choice, parallel_tool_calls=parallel).status_code == 200
    assert fake.requests[-1].prompts[0].chat.tool_choice == sent


def test_calls_are_openais(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.finish = pb.FINISH_REASON_STOP
    first, second = (pb.ToolCall(id=id, name="f", arguments="{}") for id in "ab")
    fake.script.tokens = [Token(" "), Token("", tool_calls=[first]), Token("", tool_calls=[second])]
    written = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in "ab"]
    choice = ask(http, tools=[TOOL]).json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": None, "tool_calls": written}
    assert choice["finish_reason"] == "tool_calls"
    *chunks, _ = events(ask(http, tools=[TOOL], stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta["tool_calls"] for delta in deltas if "tool_calls" in delta] == [
        [{"index": index} | call] for index, call in enumerate(written)
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    fake.script.finish = pb.FINISH_REASON_LENGTH
    assert ask(http, tools=[TOOL]).json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("prompts[0].chat.tools", "tools"),
        ("prompts[0].chat.tools[1].parameters", "tools[1].function.parameters"),
        ("prompts[0].chat.tool_choice.mode", "tool_choice"),
        ("prompts[0].chat.tool_choice.name", "tool_choice"),
        ("prompts[0].chat.messages", "messages"),
        ("prompts[0].chat.messages[1].tool_calls", "messages[1].tool_calls"),
        ("prompts[0].chat.messages[1].tool_calls[0].arguments", "messages[1].tool_calls[0].function.arguments"),
        ("sampling.json_schema", "response_format"),
    ],
)
def test_an_error_about_tools_names_openais_parameter(
    http: httpx.Client, fake: FakeInference, field: str, param: str
) -> None:
    fake.script.refusal = InvalidRequestError("no", field=field)
    response = ask(http, tools=[TOOL])
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("response_format", "schema", "lenient"),
    [
        ({"type": "text"}, None, False),
        ({"type": "json_object"}, {"type": "object"}, False),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}, SCHEMA, False),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, SCHEMA, True),
        ({"type": "json_schema", "json_schema": {"name": "x", "description": "y", "strict": None}}, {}, True),
    ],
)
def test_a_response_format_reaches_the_service(
    http: httpx.Client, fake: FakeInference, response_format: Any, schema: Any, lenient: bool
) -> None:
    assert ask(http, response_format=response_format).status_code == 200
    sampling = fake.requests[-1].sampling
    assert sampling.HasField("json_schema") == (schema is not None)
    if schema is not None:
        assert (json.loads(sampling.json_schema.schema), sampling.json_schema.lenient) == (schema, lenient)


def test_a_schema_that_the_service_refuses_is_named(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.refusal = InvalidRequestError("no text satisfies it", field="sampling.json_schema.schema")
    own = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    for response_format, param in ((own, "response_format.json_schema.schema"), ({"type": "json_object"},) * 2):
        response = ask(http, response_format=response_format)
        param = param if isinstance(param, str) else "response_format"
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


MISTAKES: dict[str, tuple[dict[str, Any], str | None]] = {
    "no messages": ({"messages": []}, "messages"),
    "messages null": ({"messages": None}, "messages"),
    "messages text": ({"messages": "Hello"}, "messages"),
    "message text": ({"messages": ["Hello"]}, "messages[0]"),
    "unknown role": ({"messages": [*HELLO, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
    "tool without an id": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    "an id without a tool": ({"messages": [{**HELLO[0], "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
    "a user who calls": ({"messages": [{**HELLO[0], "tool_calls": CALLS}]}, "messages[0].tool_calls"),
    "a call without arguments": (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    "a tool of another type": ({"tools": [{"type": "custom"}]}, "tools[0].type"),
    "a tool without a function": ({"tools": [{"type": "function"}]}, "tools[0].function"),
    "a name with a space": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    "no tools to call": ({"tool_choice": "required"}, "tool_choice"),
    "no such choice": ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
    "a choice of another tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "a b"}}},
        "tool_choice.function.name",
    ),
    "no role": ({"messages": [{"content": "x"}]}, "messages[0].role"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "null content": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    "number in content": ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content"),
    "name": ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages[0].name"),
    "surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    "surrogate in a part": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]},
        "messages[0].content",
    ),
    "too long": ({"messages": [{"role": "user", "content": "x" * 2000}]}, "messages[0].content"),
    "unknown": ({"temprature": 1}, "temprature"),
    "format": ({"response_format": "json"}, "response_format"),
    "no format": ({"response_format": {}}, "response_format"),
    "unknown format": ({"response_format": {"type": "xml"}}, "response_format"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "no name": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
    ),
    "schema text": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": "{}"}}},
        "response_format.json_schema.schema",
    ),
    "schema beside an object": ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
    "surrogate name": ({"\ud800": 1}, None),
    "temperature text": ({"temperature": "0"}, "temperature"),
    "temperature true": ({"temperature": True}, "temperature"),
    "temperature high": ({"temperature": 2.5}, "temperature"),
    "temperature negative": ({"temperature": -0.1}, "temperature"),
    "top_p high": ({"top_p": 1.5}, "top_p"),
    "top_k negative": ({"top_k": -1}, "top_k"),
    "kv_bits one": ({"kv_bits": 1}, "kv_bits"),
    "min_p high": ({"min_p": 2}, "min_p"),
    "max_tokens zero": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens huge": ({"max_tokens": 2**40}, "max_tokens"),
    "max_tokens fraction": ({"max_tokens": 1.5}, "max_tokens"),
    "seed huge": ({"seed": 2**70}, "seed"),
    "seed text": ({"seed": "1"}, "seed"),
    "stop empty": ({"stop": ""}, "stop[0]"),
    "stop number": ({"stop": 3}, "stop"),
    "stop numbers": ({"stop": ["a", 3]}, "stop[1]"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs"),
    "top_logprobs many": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "logprobs number": ({"logprobs": 5}, "logprobs"),
    "stream text": ({"stream": "yes"}, "stream"),
    "options without stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "unknown option": ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    "n true": ({"n": True}, "n"),
    "n zero": ({"n": 0}, "n"),
    "n many": ({"n": 129}, "n"),
    "penalty high": ({"presence_penalty": 2.1}, "presence_penalty"),
    "repetition zero": ({"repetition_penalty": 0}, "repetition_penalty"),
    "bias of a text": ({"logit_bias": {"abc": 1}}, "logit_bias.abc"),
    "bias of a negative token": ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    "bias beyond ids": ({"logit_bias": {"9999999999": 1}}, "logit_bias"),
    "bias high": ({"logit_bias": {"1": 100.5}}, "logit_bias.1"),
    "bias list": ({"logit_bias": [1]}, "logit_bias"),
    "penalty false": ({"presence_penalty": False}, "presence_penalty"),
    "model number": ({"model": 3}, "model"),
    "hooks of the other route": ({"activation_hooks": []}, "activation_hooks"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_400_and_names_the_parameter(http: httpx.Client, name: str) -> None:
    parameters, param = MISTAKES[name]
    body = json.dumps({"messages": HELLO} | parameters)
    response = http.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_an_unknown_model_is_404(http: httpx.Client) -> None:
    for stream in (False, True):
        response = ask(http, model="gpt-4", stream=stream)
        error = response.json()["error"]
        assert response.status_code == 404
        assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_no_model_at_all_is_404(http: httpx.Client, fake: FakeInference) -> None:
    fake.models.clear()
    response = ask(http)
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")
