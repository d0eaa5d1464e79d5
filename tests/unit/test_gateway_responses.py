"""Responses over REST.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_responses.py"""

import json
from typing import Any

import httpx
import openai
import pytest

from neuroscope.errors import ResourceExhaustedError
from neuroscope.v1 import inference_pb2 as pb
from tests.support.fake_inference import FakeInference
from tests.support.running_gateway import RunningGateway

PATH = "/v1/responses"


def ask(http: httpx.Client, **parameters: Any) -> httpx.Response:
    return http.post(PATH, json={"input": "Hello!"} | parameters)


def test_a_response_has_openais_shape(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.finish = pb.FINISH_REASON_STOP
    answer = ask(http, model="tiny", instructions="Be brief.", metadata={"a": "b"}).json()
    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["status"], answer["model"]) == ("response", "completed", "tiny")
    (message,) = answer["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    assert message["content"] == [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}]
    assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (4, 3)
    assert (answer["instructions"], answer["metadata"], answer["store"]) == ("Be brief.", {"a": "b"}, False)
    said = [(m.role, m.content) for m in fake.requests[-1].prompts[0].chat.messages]
    assert said == [("system", "Be brief."), ("user", "Hello!")]


def test_an_answer_that_was_cut_off_is_incomplete(http: httpx.Client, fake: FakeInference) -> None:
    answer = ask(http, max_output_tokens=2).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert fake.requests[-1].sampling.max_tokens == 2


def test_an_earlier_answer_can_be_said_again(http: httpx.Client, fake: FakeInference) -> None:
    earlier = ask(http).json()["output"]
    said = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, *earlier]
    response = ask(http, input=[*said, {"role": "developer", "content": "More."}])
    assert response.status_code == 200, response.text
    found = [(m.role, m.content) for m in fake.requests[-1].prompts[0].chat.messages]
    assert found == [("user", "Hi"), ("assistant", "Hello!"), ("system", "More.")]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for frame in response.text.split("\n\n")[:-1]:
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_a_stream_has_openais_events(http: httpx.Client) -> None:
    found = events(ask(http, stream=True))
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    assert found[0]["response"]["status"] == "in_progress"
    assert "".join(event.get("delta", "") for event in found) == "Hello!"
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == found[7]["text"] == "Hello!"


def test_an_error_in_a_stream_is_an_event(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.failure, fake.script.fail_after = ResourceExhaustedError("memory ran short"), 1
    last = events(ask(http, stream=True))[-1]
    assert (last["type"], last["code"], last["message"]) == ("error", "resource_exhausted", "memory ran short")


UNSUPPORTED: dict[str, Any] = {
    "background": True,
    "conversation": "conv_1",
    "include": ["reasoning.encrypted_content"],
    "previous_response_id": "resp_1",
    "reasoning": {"effort": "low"},
    "store": True,
    "text": {"format": {"type": "json_object"}},
    "tool_choice": "required",
    "tools": [{"type": "web_search"}],
    "top_logprobs": 2,
    "truncation": "auto",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_there_is_refused_by_name(http: httpx.Client, name: str) -> None:
    response = ask(http, **{name: UNSUPPORTED[name]})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, name, "unsupported_parameter")


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"input": None}, "input"),
    "empty": ({"input": ""}, "input"),
    "no messages": ({"input": []}, "input"),
    "role": ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
    "image": ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
    "call": ({"input": [{"type": "function_call", "call_id": "1"}]}, "input[0].role"),
    "tokens": ({"max_output_tokens": 0}, "max_output_tokens"),
    "metadata of a number": ({"metadata": {"a": 10**30}}, "metadata.a"),
    "metadata of no text": ({"metadata": {"a": {"b": "c"}}}, "metadata.a"),
    "unknown": ({"max_tokens": 3}, "max_tokens"),
    "model": ({"input": "x" * 2000}, "input"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_400_and_names_the_parameter(http: httpx.Client, name: str) -> None:
    parameters, param = MISTAKES[name]
    response = ask(http, **parameters)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_openais_client(gateway: RunningGateway, fake: FakeInference) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        assert client.responses.create(model="tiny", input="Hello!").output_text == "Hello!"
        stream = client.responses.create(model="tiny", input="Hello!", stream=True)
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == "Hello!"
