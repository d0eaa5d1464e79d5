"""Text completions over REST.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_completions.py"""

import json
from typing import Any

import httpx
import openai
import pytest

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from tests.support.fake_inference import FakeInference, Token
from tests.support.running_gateway import RunningGateway

PATH = "/v1/completions"


def ask(http: httpx.Client, prompt: Any = "Once", **parameters: Any) -> httpx.Response:
    return http.post(PATH, json={"prompt": prompt} | parameters)


def test_a_completion_has_openais_shape(http: httpx.Client, fake: FakeInference) -> None:
    answer = ask(http, model="tiny").json()
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "text_completion",
        "model": "tiny",
        "choices": [{"index": 0, "text": "Hello!", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7},
    }
    assert fake.requests[-1].sampling.max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("Once", ["Once"]),
        (["Once", "Twice"], ["Once", "Twice"]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_every_form_of_prompt(http: httpx.Client, fake: FakeInference, prompt: Any, sent: list[Any]) -> None:
    answer = ask(http, prompt, n=2)
    assert answer.status_code == 200, answer.text
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(2 * len(sent)))
    request: pb.GenerateRequest = fake.requests[-1]
    found = [p.text if p.HasField("text") else list(p.token_ids.ids) for p in request.prompts]
    assert found == sent
    assert request.sampling.rows_per_prompt == 2


def test_an_echo_is_the_prompt_in_front(http: httpx.Client) -> None:
    assert ask(http, "Once ", echo=True).json()["choices"][0]["text"] == "Once Hello!"
    choices = ask(http, [[5, 6], [7]], echo=True, n=2).json()["choices"]
    assert [choice["text"] for choice in choices] == ["<5><6>Hello!"] * 2 + ["<7>Hello!"] * 2
    chunks = [json.loads(line[6:]) for line in ask(http, "Once ", echo=True, stream=True).text.split("\n\n")[:-2]]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Once ", "Hel", "lo", "!", ""]


def test_logprobs_in_the_old_form(http: httpx.Client) -> None:
    logprobs = ask(http, logprobs=2).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["Hel", "lo", "!"]
    assert logprobs["token_logprobs"] == [-0.5, -0.5, -0.5]
    assert logprobs["top_logprobs"][0] == {"Hel": -0.5, "x": -2.0}
    assert logprobs["text_offset"] == [0, 3, 5]


def test_logprobs_without_alternatives(http: httpx.Client) -> None:
    logprobs = ask(http, logprobs=0).json()["choices"][0]["logprobs"]
    assert (logprobs["tokens"], logprobs["top_logprobs"]) == (["Hel", "lo", "!"], None)


def test_the_drawn_token_is_among_the_alternatives(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.tokens = [Token("b", 9, -4.0, tops=((8, "a", -0.1),))]
    assert ask(http, logprobs=1).json()["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -0.1, "<9>": -4.0}]


def test_a_stream(http: httpx.Client) -> None:
    response = ask(http, stream=True, logprobs=1, n=2, stream_options={"include_usage": True})
    *frames, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    *chunks, last = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert (last["choices"], last["usage"]) == (
        [],
        {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10},
    )
    assert all(chunk["usage"] is None and chunk["object"] == "text_completion" for chunk in chunks)
    for index in range(2):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in own) == "Hello!"
        assert [choice["logprobs"]["text_offset"][0] for choice in own if choice["logprobs"]] == [0, 3, 5]
        assert own[-1]["finish_reason"] == "length"


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "suffix": ({"suffix": "end"}, "suffix", "unsupported_parameter"),
    "best_of": ({"best_of": 3}, "best_of", "unsupported_parameter"),
    "nothing at all": ({"max_tokens": 0}, "max_tokens", "invalid_request"),
    "logprobs many": ({"logprobs": 21}, "logprobs", "invalid_request"),
    "logprobs true": ({"logprobs": True}, "logprobs", "invalid_request"),
    "no text": ({"prompt": ""}, "prompt", "invalid_request"),
    "no prompt": ({"prompt": None}, "prompt", "invalid_request"),
    "empty list": ({"prompt": []}, "prompt", "invalid_request"),
    "empty ids": ({"prompt": [[]]}, "prompt[0]", "invalid_request"),
    "mixed": ({"prompt": ["a", 3]}, "prompt[1]", "invalid_request"),
    "mixed ids": ({"prompt": [3, "a"]}, "prompt[1]", "invalid_request"),
    "bool": ({"prompt": [True]}, "prompt[0]", "invalid_request"),
    "fraction": ({"prompt": [1.5]}, "prompt[0]", "invalid_request"),
    "negative": ({"prompt": [[-1]]}, "prompt[0][0]", "invalid_request"),
    "surrogate": ({"prompt": "\ud800"}, "prompt", "invalid_request"),
    "options without stream": ({"stream_options": {}}, "stream_options", "invalid_request"),
    "messages": ({"messages": []}, "messages", "unknown_parameter"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_400_and_names_the_parameter(http: httpx.Client, name: str) -> None:
    parameters, param, code = MISTAKES[name]
    body = json.dumps({"prompt": "Once"} | parameters)
    response = http.post(PATH, content=body, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


@pytest.mark.parametrize(("prompt", "param"), [("Once", "prompt"), (["a", "b"], "prompt[1]"), ([1, 2], "prompt")])
def test_an_error_of_the_service_names_the_prompt(
    http: httpx.Client, fake: FakeInference, prompt: Any, param: str
) -> None:
    index = 1 if isinstance(prompt, list) and isinstance(prompt[0], str) else 0
    fake.script.refusal = InvalidRequestError("too long", field=f"prompts[{index}].token_ids")
    response = ask(http, prompt)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_openais_client(gateway: RunningGateway, fake: FakeInference) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(model="tiny", prompt=["a", "b"], n=2, logprobs=1)
        assert [choice.text for choice in answer.choices] == ["Hello!"] * 4
        assert answer.choices[0].logprobs is not None
        assert answer.choices[0].logprobs.text_offset == [0, 3, 5]
        stream = client.completions.create(model="tiny", prompt="a", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == "Hello!"
