"""Directions of the bundled model, found and steered by over gRPC, REST and the command line.

python -m pytest tests/integration/test_steering.py
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import Result

from neuroscope import AsyncClient, Client, Directions, contrast, contrast_async
from neuroscope.errors import InvalidRequestError
from tests.support.compare import relative_error
from tests.support.services import Service
from tests.support.shell import neuroscope

NORWAY, ITALY = "The capital of Norway is", "The capital of Italy is"
COUNTRIES = ("France", "Spain", "Japan", "Egypt", "Norway", "Italy")
CAPITALS = [f"The capital of {country} is" for country in COUNTRIES]
TEXTS = ["Once upon a time", "She looked at him", "He said that", "It was a dark", "They walked to", "I think it is"]


@pytest.fixture(scope="module")
def client(tiny_inference: Service) -> Generator[Client]:
    with Client(tiny_inference.target) as client:
        yield client


def text(client: Client, prompt: str, **how: Any) -> str:
    return client.generate(prompt, max_tokens=2, **how).wait().text


def test_a_direction_of_one_pair_makes_one_prompt_the_other(client: Client) -> None:
    """At the last position of the residual stream behind the first layer on: that is all that tells the next token."""
    found = contrast(client, [NORWAY], [ITALY])
    assert list(found) == [f"resid_post.{layer}" for layer in range(4)]
    assert all(direction.separation.count == 0 for direction in found.values())
    last = found["resid_post.3"]
    steered = client.capture(ITALY, ["logits"], interventions=last.steer(positions=[-1]))["logits"][0, -1]
    expected = client.capture(NORWAY, ["logits"])["logits"][0, -1]
    assert relative_error(steered, expected) < 1e-5
    assert text(client, NORWAY).startswith("Oslo")
    assert text(client, ITALY, interventions=last.steer(positions=[-1], steps=0)).startswith("Oslo")


def test_directions_are_those_of_captures(client: Client) -> None:
    found = contrast(client, CAPITALS, TEXTS, "mlp_out", layers=[1, -1], position=None)
    assert list(found) == ["mlp_out.1", "mlp_out.3"]
    means = [
        np.mean(
            [client.capture(prompt, ["mlp_out.1"])["mlp_out", 1][0].astype(np.float64).mean(0) for prompt in set_], 0
        )
        for set_ in (CAPITALS, TEXTS)
    ]
    direction = found["mlp_out.1"]
    np.testing.assert_allclose(direction.vector, means[0] - means[1], rtol=1e-4, atol=1e-5)
    assert direction.middle == pytest.approx(direction.vector @ (means[0] + means[1]) / 2 / direction.norm, abs=1e-4)


@pytest.mark.parametrize("method", ["mean_difference", "principal_component", "probe"])
def test_what_differs_is_told_apart(client: Client, method: str) -> None:
    found = contrast(client, CAPITALS, TEXTS, method=method)
    assert found.best.separation.is_significant
    assert found.best.separation.accuracy > 0.9
    assert found.provenance["method"] == method
    assert found.provenance["model_id"] == "neuroscope-tiny"
    assert found.provenance["positive"] == CAPITALS


def test_a_removed_direction_is_not_there(client: Client) -> None:
    direction = contrast(client, CAPITALS, TEXTS)["resid_post.2"]
    cache = client.capture(NORWAY, ["resid_post.2"], interventions=[direction.remove()])
    left = np.asarray(cache["resid_post", 2], np.float64) @ (direction.vector / direction.norm)
    assert np.abs(left).max() < 1e-4


def test_a_schedule_governs_its_steps(client: Client) -> None:
    """The edit of a step is seen at that step, and at no other."""
    direction = contrast(client, CAPITALS, TEXTS)["resid_post.3"]
    how: dict[str, Any] = {"hooks": ["resid_post.3"], "max_tokens": 4, "ignore_eos": True}
    plain = client.generate(NORWAY, **how).wait().cache["resid_post", 3][0]
    edits = direction.steer(1e-3, schedule=[0, 1, 2, 0])  # so little that the text stays
    edited = client.generate(NORWAY, interventions=edits, **how).wait().cache["resid_post", 3][0]
    prompt = len(client.tokenize(NORWAY))
    shifts = np.asarray(edited - plain, np.float64)[prompt - 1 :] @ (direction.vector / direction.norm) / direction.norm
    np.testing.assert_allclose(shifts, [0, 1e-3, 2e-3, 0], atol=2e-5)


def test_an_event_loop_finds_the_same(client: Client, tiny_inference: Service) -> None:
    async def find() -> Directions:
        async with AsyncClient(tiny_inference.target) as other:
            return await contrast_async(other, CAPITALS, TEXTS)

    found, expected = asyncio.run(find()), contrast(client, CAPITALS, TEXTS)
    for name, direction in found.items():
        np.testing.assert_allclose(direction.vector, expected[name].vector, rtol=1e-5, atol=1e-6)


def test_it_tells_how_far_it_is(client: Client) -> None:
    told: list[tuple[int, int]] = []
    contrast(client, CAPITALS * 3, TEXTS, layers=[0], progress=lambda done, count: told.append((done, count)))
    assert told == [(0, 24), (16, 24), (24, 24)]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (([], TEXTS), "positive"),
        ((CAPITALS, "text"), "negative"),
        ((CAPITALS, TEXTS, "attention_pattern"), "component"),
        ((CAPITALS, TEXTS, "head_output"), "component"),
    ],
)
def test_what_makes_no_direction_is_an_error(client: Client, arguments: tuple, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        contrast(client, *arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("how", [{"method": "median"}, {"layers": []}, {"method": "principal_component"}])
def test_what_is_asked_wrongly_is_an_error_before_anything_runs(client: Client, how: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        contrast(client, CAPITALS[:3], TEXTS, **how)
    assert caught.value.field == {"principal_component": "negative"}.get(how.get("method", ""), next(iter(how)))


# Other ways in.


def test_a_chat_over_rest_is_steered_as_one_over_grpc(client: Client, tiny_gateway: Service) -> None:
    direction = contrast(client, CAPITALS, TEXTS)["resid_post.2"]
    messages = [{"role": "user", "content": "Hello"}]
    expected = client.generate(messages, max_tokens=8, interventions=direction.steer(1.5)).wait().text
    body = {
        "messages": messages,
        "max_tokens": 8,
        "interventions": [edit.to_json() for edit in direction.steer(1.5)],
    }
    response = httpx.post(f"{tiny_gateway.target}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == expected
    assert expected != client.generate(messages, max_tokens=8).wait().text


def command(service: Service, *arguments: object) -> Result:
    return neuroscope(*arguments, target=service.target)


def test_the_command_line_finds_shows_and_steers(client: Client, tiny_inference: Service, tmp_path: Path) -> None:
    (tmp_path / "positive.txt").write_text("\n".join(CAPITALS) + "\n")
    (tmp_path / "negative.json").write_text(json.dumps(TEXTS))
    file, picture = tmp_path / "d.safetensors", tmp_path / "d.png"
    sets = ["--positive", tmp_path / "positive.txt", "--negative", tmp_path / "negative.json"]
    done = command(tiny_inference, "directions", "find", *sets, "-o", file, "--save", picture)
    assert done.exit_code == 0, done.stderr
    assert "12 of 12" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = command(tiny_inference, "directions", "show", file)
    assert "6 positive and 6 negative prompts" in shown.stdout
    assert "resid_post.3" in shown.stdout

    direction = Directions.load(file)["resid_post.3"]
    expected = client.generate(NORWAY, max_tokens=4, interventions=direction.steer(-2, schedule=[1, 1, 0])).wait().text
    steer = f"{file}:resid_post.3 -2 schedule=1,1,0"
    done = command(tiny_inference, "generate", NORWAY, "--raw", "--max-tokens", 4, "--steer", steer)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == expected.strip()
    assert "resid_post.3[steps :2] := act + -2·tensor(128)" in done.stderr


@pytest.mark.parametrize(
    ("steer", "says"),
    [
        ("{file}", "FILE[:NAME] COEFFICIENT"),
        ("absent.safetensors 1", "No such file"),
        ("{file}:resid_post.9 1", "nearest: resid_post.3"),
        ("{file} much", "much is no number"),
        ("{file} 1 schedule=1,x", "x is no number"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    client: Client, tiny_inference: Service, tmp_path: Path, steer: str, says: str
) -> None:
    contrast(client, [NORWAY], [ITALY]).save(tmp_path / "d.safetensors")
    steer = steer.replace("{file}", str(tmp_path / "d.safetensors"))
    done = command(tiny_inference, "generate", NORWAY, "--raw", "--steer", steer)
    assert done.exit_code == 1
    assert says in " ".join(done.stderr.split())
    assert "--steer" in done.stderr
