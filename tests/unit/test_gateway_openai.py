"""The openai client against the gateway.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_openai.py"""

import json
from collections.abc import Generator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from neuroscope.errors import (
    ActivationCaptureError,
    ContextLengthError,
    MLXIntegrationError,
    NeuroScopeIntegrationError,
    ResourceExhaustedError,
)
from neuroscope.v1 import inference_pb2 as pb
from tests.support.fake_inference import FakeInference, Token
from tests.support.running_gateway import RunningGateway

HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
def client(gateway: RunningGateway, fake: FakeInference) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_it_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO)
    assert answer.choices[0].message.content == "Hello!"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7


def test_an_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message
    for earlier in (message, message.model_dump()):
        answer = client.chat.completions.create(model="tiny", messages=[*HELLO, earlier, *HELLO])  # type: ignore[list-item]
        assert answer.choices[0].message.content == "Hello!"


def test_it_streams(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Hello!"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_its_own_accumulator_reads_the_stream(client: openai.OpenAI, fake: FakeInference) -> None:
    fake.script.finish = pb.FINISH_REASON_STOP
    with client.chat.completions.stream(model="tiny", messages=HELLO, logprobs=True, top_logprobs=1) as stream:
        kinds = {event.type for event in stream}
        completion = stream.get_final_completion()
    assert "content.delta" in kinds
    assert completion.choices[0].message.content == "Hello!"
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert [entry.token for entry in logprobs.content or ()] == ["Hel", "lo", "!"]


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].top_logprobs[1].logprob == -2.0


async def test_it_chats_asynchronously(gateway: RunningGateway, fake: FakeInference) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(model="tiny", messages=HELLO)
        assert answer.choices[0].message.content == "Hello!"
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello!"


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("tiny", "neuroscope")
    assert client.models.retrieve("tiny").id == "tiny"


def test_extensions_go_through_extra_body(client: openai.OpenAI, fake: FakeInference) -> None:
    client.chat.completions.create(model="tiny", messages=HELLO, extra_body={"top_k": 5, "min_p": 0.5})
    assert (fake.requests[-1].sampling.top_k, fake.requests[-1].sampling.min_p) == (5, 0.5)


def test_mistakes_are_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=HELLO, store=True)
    assert (bad.value.code, bad.value.param) == ("unsupported_parameter", "store")
    assert bad.value.request_id
    assert bad.value.type == "invalid_request_error"


@pytest.fixture
def patient(gateway: RunningGateway, fake: FakeInference) -> Generator[openai.OpenAI]:
    """The client as it comes, which tries a request three times."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none") as made:
        yield made


@pytest.mark.parametrize(
    "trouble", [ResourceExhaustedError("64 streams are open"), NeuroScopeIntegrationError("the service restarts")]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_passes_is_tried_again(
    patient: openai.OpenAI, fake: FakeInference, trouble: MLXIntegrationError, streamed: bool
) -> None:
    fake.script.refusals = [trouble]
    if streamed:
        chunks = patient.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        text = patient.chat.completions.create(model="tiny", messages=HELLO).choices[0].message.content or ""
    assert text == "Hello!"
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    ("trouble", "kind", "code"),
    [
        (ResourceExhaustedError("64 streams are open"), openai.RateLimitError, "resource_exhausted"),
        (NeuroScopeIntegrationError("the service is gone"), openai.InternalServerError, "service_unavailable"),
    ],
)
def test_what_stays_is_an_error_that_says_when_to_come_back(
    gateway: RunningGateway,
    fake: FakeInference,
    trouble: MLXIntegrationError,
    kind: type[openai.APIStatusError],
    code: str,
) -> None:
    fake.script.refusal = trouble
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=1)
    with client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO)
    assert type(caught.value) is kind
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.code == code
    assert len(fake.requests) == 2


def test_a_mistake_is_not_tried_again(patient: openai.OpenAI, fake: FakeInference) -> None:
    fake.script.refusal = ContextLengthError("the prompt has more tokens than the context of 256")
    with pytest.raises(openai.BadRequestError) as caught:
        patient.chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.code == "context_length_exceeded"
    assert len(fake.requests) == 1


def test_a_gateway_that_is_not_there() -> None:
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=1)
    with client, pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="tiny", messages=HELLO)


def test_a_slow_answer_is_its_timeout(client: openai.OpenAI, fake: FakeInference) -> None:
    fake.script.prefill_s = 30
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(model="tiny", messages=HELLO)
    assert fake.cancelled.wait(20), "nobody waits for it any more"


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ],
)
def test_what_is_not_there_is_refused_by_name(client: openai.OpenAI, extra: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO, **extra)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


class Greeting(BaseModel):
    text: str


def test_it_parses_an_answer_into_a_class(client: openai.OpenAI, fake: FakeInference) -> None:
    fake.script.tokens, fake.script.finish = [Token('{"text": '), Token('"Hello!"}')], pb.FINISH_REASON_STOP
    answer = client.chat.completions.parse(model="tiny", messages=HELLO, response_format=Greeting)
    assert answer.choices[0].message.parsed == Greeting(text="Hello!")
    asked = fake.requests[-1].sampling.json_schema
    assert json.loads(asked.schema)["required"] == ["text"]
    assert not asked.lenient
    fake.script.finish = pb.FINISH_REASON_LENGTH
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="tiny", messages=HELLO, response_format=Greeting)
    answer = client.chat.completions.create(model="tiny", messages=HELLO, response_format={"type": "json_object"})
    assert json.loads(fake.requests[-1].sampling.json_schema.schema) == {"type": "object"}


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, tools=[], tool_choice="none", response_format={"type": "text"}
    )
    assert answer.choices[0].message.content == "Hello!"


def test_an_error_in_a_stream_is_raised(client: openai.OpenAI, fake: FakeInference) -> None:
    fake.script.failure, fake.script.fail_after = ActivationCaptureError("the capture broke"), 1
    stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    texts: list[str | None] = []
    with pytest.raises(openai.APIError, match="the capture broke"):
        texts.extend(chunk.choices[0].delta.content for chunk in stream)
    assert texts == ["", "Hel"]


def test_leaving_a_stream_cancels_it(client: openai.OpenAI, fake: FakeInference) -> None:
    fake.script.step_s = 5
    with client.chat.completions.create(model="tiny", messages=HELLO, stream=True) as stream:
        next(stream)
    assert fake.cancelled.wait(2)
