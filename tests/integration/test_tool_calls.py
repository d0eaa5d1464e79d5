"""Tools through chat templates, and calls of them: SDK, REST and the openai client.

python -m pytest tests/integration/test_tool_calls.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator

from neuroscope.client import Client
from neuroscope.errors import InvalidRequestError
from tests.support.chat_templates import TEMPLATES, model_with_template
from tests.support.services import Service

ASK: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Rome?"}]
CITY = {
    "type": "object",
    "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["place", "days"],
    "$defs": {"place": {"type": "string", "maxLength": 8}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
RESULT: list[dict[str, Any]] = [
    *ASK,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "aaaaaaaaa", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": "noon"},
]
LENGTH = 200
ENFORCED = ("hermes", "mistral", "mistral named", "llama3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("templates")
    made = {name: model_with_template(folder / name, template) for name, template in TEMPLATES.items()}
    made["bare"] = model_with_template(folder / "bare", "")
    special = "[TOOL_CALLS]"
    made["special"] = model_with_template(folder / "special", TEMPLATES["mistral"].replace("<|system|>", ""), special)
    return made


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[Client]:
    with Client("local") as client:
        for name, folder in folders.items():
            client.load_model(str(folder), model_id=name)
        yield client


def calls(client: Client, model: str, **fields: Any) -> list[tuple[str, Any]]:
    """Names and arguments of the calls of one row, whose text is empty."""
    settings: dict[str, Any] = {"max_tokens": LENGTH, "tools": TOOLS, "tool_choice": "required"} | fields
    generation = client.generate(ASK, model_id=model, **settings)
    tokens = list(generation)
    assert generation.text == ""
    assert tokens[-1].finish_reason == "stop"
    found = [call for token in tokens for call in token.tool_calls]
    assert found == generation.tool_calls[0]
    return [(call.name, json.loads(call.arguments)) for call in found]


@pytest.mark.parametrize("model", [*ENFORCED, "special"])
def test_a_required_call_is_one_of_the_tools(client: Client, model: str) -> None:
    for seed in range(3):
        sampling: dict[str, Any] = {"temperature": 1.0, "seed": seed}
        (first, *_) = calls(client, model, parallel_tool_calls=False, **sampling)
        assert first[0] in ("weather", "now")
        if first[0] == "weather":
            Draft202012Validator(CITY).validate(first[1])
        ((name, arguments),) = calls(client, model, tool_choice="weather", parallel_tool_calls=False, **sampling)
        assert name == "weather"
        Draft202012Validator(CITY).validate(arguments)
    assert calls(client, model, tools=TOOLS[1:], parallel_tool_calls=False) == [("now", {})]


def test_calls_of_a_constraint_and_of_free_text_share_a_batch(client: Client) -> None:
    schema = {"enum": ["sunny"]}
    answer = list(client.generate(ASK, model_id="hermes", tools=TOOLS, json_schema=schema, max_tokens=LENGTH))
    text = "".join(token.text for token in answer)
    assert text == '"sunny"' or any(token.tool_calls for token in answer)
    free = client.generate(ASK, model_id="hermes", tools=TOOLS, max_tokens=9).wait()
    assert free.text
    assert free.tool_calls == [[]]
    assert client.generate(ASK, model_id="hermes", tools=TOOLS, tool_choice="none", max_tokens=9).wait().text == (
        client.generate(ASK, model_id="hermes", max_tokens=9).wait().text
    )


def test_a_call_that_is_cut_off_is_text(client: Client) -> None:
    generation = client.generate(ASK, model_id="hermes", tools=TOOLS, tool_choice="required", max_tokens=8)
    tokens = list(generation)
    assert tokens[-1].finish_reason == "length"
    assert generation.text.startswith("<tool")
    assert not generation.tool_calls[0]


def test_results_of_calls_are_rendered(client: Client) -> None:
    started = client.generate(RESULT, model_id="hermes", tools=TOOLS, max_tokens=1)
    started.wait()
    assert started.started is not None
    prompt = client.detokenize(started.started.prompts[0].ids, model_id="hermes")
    assert '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>' in prompt
    assert "tool: noon" in prompt
    assert '"name": "weather"' in prompt


REFUSED: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "no template": ("bare", ASK, {"tools": TOOLS}, "prompts[0].chat.messages"),
    "no tools in the template": ("none", ASK, {"tools": TOOLS}, "prompts[0].chat.tools"),
    "no calls in the template": ("none", RESULT, {}, "prompts[0].chat.messages[1].tool_calls"),
    "no known format": (
        "unknown",
        ASK,
        {"tools": TOOLS, "tool_choice": "required"},
        "prompts[0].chat.tool_choice.mode",
    ),
    "a constraint of an unknown format": ("unknown", ASK, {"tools": TOOLS, "json_schema": {}}, "sampling.json_schema"),
    "no tools": ("hermes", ASK, {"tool_choice": "required"}, "prompts[0].chat.tool_choice.mode"),
    "no such tool": ("hermes", ASK, {"tools": TOOLS, "tool_choice": "rain"}, "prompts[0].chat.tool_choice.name"),
    "two alike": ("hermes", ASK, {"tools": TOOLS * 2}, "prompts[0].chat.tools[2].name"),
    "a bad name": ("hermes", ASK, {"tools": [{"function": {"name": "a b"}}]}, "prompts[0].chat.tools[0].name"),
    "no schema": (
        "hermes",
        ASK,
        {"tools": [{"function": {"name": "f", "parameters": {"enum": []}}}], "tool_choice": "required"},
        "prompts[0].chat.tools[0].parameters",
    ),
    "arguments that are no object": (
        "hermes",
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "3"}}]}],
        {},
        "prompts[0].chat.messages[0].tool_calls[0].arguments",
    ),
    "a call and a schema": (
        "hermes",
        ASK,
        {"tools": TOOLS, "tool_choice": "required", "json_schema": {}},
        "sampling.json_schema",
    ),
    "tools and a grammar": ("hermes", ASK, {"tools": TOOLS, "grammar": "start: /a/"}, "sampling.grammar"),
    "tools of a text": ("hermes", "Hello", {"tools": TOOLS}, "tools"),
    "a strange choice": ("hermes", ASK, {"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
    "a strange tool": ("hermes", ASK, {"tools": ["weather"]}, "tools[0]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(client: Client, name: str) -> None:
    model, prompt, fields, field = REFUSED[name]
    with pytest.raises(InvalidRequestError) as caught:
        client.generate(prompt, model_id=model, max_tokens=2, **fields).wait()
    assert caught.value.field == field


def test_the_openai_client_calls_tools(
    tiny_gateway: Service, tiny_inference: Service, folders: dict[str, Path], bundled_model_dir: Path
) -> None:
    with (
        Client(tiny_inference.target) as service,
        openai.OpenAI(base_url=f"{tiny_gateway.target}/v1", api_key="none", max_retries=0) as http,
    ):
        service.load_model(str(folders["hermes"]), model_id="hermes")
        chat: Any = http.chat.completions
        asked: dict[str, Any] = {"model": "hermes", "tools": TOOLS, "tool_choice": "required", "max_tokens": LENGTH}
        asked |= {"parallel_tool_calls": False, "seed": 1}
        choice = chat.create(messages=ASK, **asked).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        (call,) = choice.message.tool_calls
        streamed = [chunk.choices[0] for chunk in chat.create(messages=ASK, stream=True, **asked)]
        deltas = [delta for chunk in streamed for delta in chunk.delta.tool_calls or ()]
        assert [(delta.index, delta.function) for delta in deltas] == [(0, deltas[0].function)]
        assert deltas[0].function.model_dump() == call.function.model_dump()
        assert streamed[-1].finish_reason == "tool_calls"
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        answer = chat.create(messages=[*ASK, choice.message, result], model="hermes", tools=TOOLS, max_tokens=4)
        assert answer.choices[0].message.content
        with pytest.raises(openai.BadRequestError) as caught:
            chat.create(messages=ASK, **(asked | {"model": bundled_model_dir.name}))
        assert caught.value.param == "tools"
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}, "strict": True}}
        with pytest.raises(openai.BadRequestError, match="not") as caught:
            chat.create(messages=ASK, model="hermes", response_format=schema)
        assert caught.value.param == "response_format.json_schema.schema"
        service.unload_model("hermes")
