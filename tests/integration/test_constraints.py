"""Constrained generation: JSON schemas and grammars, enforced while tokens are drawn.

python -m pytest tests/integration/test_constraints.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from neuroscope.client import Client
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.constraints.json_schema import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH
from neuroscope_inference.engine.decode_batch import DecodeBatch
from neuroscope_inference.engine.memory import OutOfMemoryError
from tests.support.json_schemas import NOT_ENFORCEABLE, UNSATISFIABLE, make_schemas, nested

BUNDLED = Path(__file__).parents[2] / "models" / "neuroscope-tiny"
PROMPT = "When Alice and Bob went to the park"
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["tall", "kind"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LENGTH = 120
DRAWN: dict[str, Any] = {"temperature": 1.0, "seed": 11}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client("local") as client:
        client.load_model(str(BUNDLED), model_id="tiny")
        yield client


def answer(client: Client, schema: Any = PERSON, **fields: Any) -> tuple[str, str]:
    """The text and the finish reason of one row."""
    settings: dict[str, Any] = {"max_tokens": LENGTH} | fields
    tokens = list(client.generate(PROMPT, json_schema=schema, **settings))
    return "".join(token.text for token in tokens), tokens[-1].finish_reason


@pytest.mark.parametrize("sampling", [{}, DRAWN], ids=["greedy", "drawn"])
def test_every_answer_satisfies_its_schema(client: Client, sampling: dict[str, Any]) -> None:
    for schema in make_schemas(20, seed=len(sampling)):
        text, reason = answer(client, schema, max_tokens=600, **sampling)
        assert reason == "stop", (schema, text)
        Draft202012Validator(schema).validate(json.loads(text))


def test_rows_with_and_without_a_constraint_share_a_batch(client: Client) -> None:
    free = client.generate(PROMPT, max_tokens=30, ignore_eos=True, **DRAWN).wait().text
    alone = answer(client, **DRAWN)[0]
    plain = client.generate(PROMPT, max_tokens=30, ignore_eos=True, max_steps_ahead=1, auto_advance=False, **DRAWN)
    bound = client.generate(PROMPT, max_tokens=LENGTH, json_schema=PERSON, **DRAWN)
    plain.advance(29)
    assert (plain.wait().text, bound.wait().text) == (free, alone)
    rows = client.generate([PROMPT, "The"], max_tokens=LENGTH, json_schema=PERSON, n=2, **DRAWN)
    texts = dict.fromkeys(range(4), "")
    for token in rows:
        texts[token.row] += token.text
    assert texts[0] == alone
    for text in texts.values():
        Draft202012Validator(PERSON).validate(json.loads(text))
    assert len(set(texts.values())) > 1


def test_the_pace_and_a_lost_step_change_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answer(client, **DRAWN)
    assert answer(client, max_steps_ahead=1, **DRAWN) == expected
    launch, fails = DecodeBatch.launch, iter([False] * 6 + [True])

    def launch_short(batch: DecodeBatch, rows: Any) -> None:
        launch(batch, rows)
        if next(fails, False):
            raise OutOfMemoryError("planned")

    monkeypatch.setattr(DecodeBatch, "launch", launch_short)
    texts = {0: "", 1: ""}
    with pytest.warns(UserWarning, match="memory ran short"):
        tokens = list(client.generate([PROMPT, PROMPT], json_schema=PERSON, max_tokens=LENGTH, **DRAWN))
    for token in tokens:
        texts[token.row] += token.text
    assert texts[0] == expected[0]
    assert next(fails, None) is None


def test_logprobs_are_those_of_the_model_without_the_constraint(client: Client) -> None:
    generation = client.generate(
        PROMPT, json_schema=PERSON, max_tokens=12, top_logprobs=3, hooks=[{"component": "logits", "hook_id": "logits"}]
    )
    tokens = list(generation)
    logits = generation.cache["logits"][0]
    for token, row in zip(tokens[1:], logits[-len(tokens) + 1 :], strict=True):
        logprobs = row - np.logaddexp.reduce(row.astype(np.float64))
        assert token.logprob == pytest.approx(logprobs[token.token_id], abs=1e-4)
        assert token.top_logprobs[0].token_id == int(row.argmax())
    assert any(token.token_id != token.top_logprobs[0].token_id for token in tokens)


def test_penalties_stop_texts_and_edits_apply(client: Client) -> None:
    assert answer(client, stop=['"age"']) == (answer(client)[0].split('"age"')[0], "stop")
    penalised = answer(client, repetition_penalty=1.5, logit_bias={5: 2.0})[0]
    Draft202012Validator(PERSON).validate(json.loads(penalised))
    edited = answer(
        client, interventions=[{"layer_name": "model.layers.1", "component": "mlp", "action": "zero"}], **DRAWN
    )[0]
    Draft202012Validator(PERSON).validate(json.loads(edited))
    assert edited != answer(client, **DRAWN)[0]
    assert answer(client, ignore_eos=True) == answer(client)


def test_the_token_limit_cuts_json_off(client: Client) -> None:
    whole, _ = answer(client)
    text, reason = answer(client, max_tokens=6)
    assert reason == "length"
    assert whole.startswith(text)
    assert 0 < len(text) < len(whole)


def test_a_grammar(client: Client) -> None:
    tokens = list(client.generate(PROMPT, grammar='start: "yes" | "no" " way"*'))
    assert "".join(token.text for token in tokens) in ("yes", "no") or tokens[0].text == "no"
    with pytest.raises(InvalidRequestError, match="unknown name") as caught:
        client.generate(PROMPT, grammar="start: thing").wait()
    assert caught.value.field == "sampling.grammar"


def test_forms_of_a_schema(client: Client) -> None:
    class Answer(BaseModel):
        yes: bool

    for schema in (Answer, Answer.model_json_schema(), json.dumps(Answer.model_json_schema())):
        assert Answer.model_validate_json(answer(client, schema)[0])
    for wrong, field in ((3, "json_schema"), ({"const": {1}}, "json_schema")):
        with pytest.raises(InvalidRequestError) as caught:
            answer(client, wrong)
        assert caught.value.field == field
    with pytest.raises(InvalidRequestError, match="exclude") as caught:
        answer(client, grammar="start: /a/")
    assert caught.value.field == "grammar"


REFUSED = {
    **UNSATISFIABLE,
    **NOT_ENFORCEABLE,
    "too deep": nested(MAX_SCHEMA_DEPTH),
    "too large": {"enum": ["x" * MAX_SCHEMA_BYTES]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_that_cannot_be_enforced_is_refused(client: Client, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        answer(client, REFUSED[name])
    assert caught.value.field == "sampling.json_schema.schema"
    assert "x-guidance" not in caught.value.message


@pytest.mark.parametrize("text", ["{", "[]", "3", "", "[" * 3000])
def test_what_is_no_schema_is_refused(client: Client, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        answer(client, text)
    assert caught.value.field == "sampling.json_schema.schema"


def test_a_lenient_schema_leaves_out_what_cannot_be_enforced(client: Client) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    text, _ = answer(client, pb.JsonSchema(schema=json.dumps(schema), lenient=True))
    assert len(json.loads(text)) == 2


def test_a_free_row_draws_as_it_is_launched(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a constraint nothing waits: one graph a step, forward pass and draw together."""
    launched: list[int] = []
    start = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: (launched.append(1), start(*arrays)))
    client.generate(PROMPT, max_tokens=9, ignore_eos=True).wait()
    assert len(launched) == 8
