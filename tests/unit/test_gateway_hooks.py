"""Hooks kept by the service.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_hooks.py"""

from typing import Any

import httpx
import pytest

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import site_pb2
from tests.support.fake_inference import FakeInference

PATH = "/v1/activations/hooks"
FIRST = {"layer_name": "transformer.h.5", "component": "attention", "hook_id": "a"}
SECOND = {"layer_name": "blocks.2", "component": "residual", "hook_id": "b", "capture_input": True}


def listed(http: httpx.Client) -> list[dict[str, Any]]:
    response = http.get(PATH)
    assert response.status_code == 200
    return response.json()["hooks"]


@pytest.mark.parametrize("body", [{"hooks": [FIRST, SECOND]}, [FIRST, SECOND]])
def test_hooks_are_registered_and_listed(http: httpx.Client, body: Any) -> None:
    response = http.post(PATH, json=body)
    assert (response.status_code, response.json()) == (200, {"registered_hooks": ["a", "b"]})
    assert listed(http) == [
        FIRST | {"capture_input": False, "capture_output": True},
        SECOND | {"capture_input": True, "capture_output": True},
    ]


def test_one_hook_by_itself(http: httpx.Client) -> None:
    assert http.post(PATH, json=FIRST).json() == {"registered_hooks": ["a"]}


def test_a_hook_without_an_id_gets_one(http: httpx.Client) -> None:
    assert http.post(PATH, json={"component": "residual", "layer_name": "h.1"}).json() == {
        "registered_hooks": ["resid_post.1"]
    }


def test_a_model_to_check_against(http: httpx.Client, fake: FakeInference) -> None:
    far = FIRST | {"layer_name": "h.99"}
    assert http.post(PATH, json={"hooks": [far]}).status_code == 200
    response = http.post(PATH, json={"hooks": [SECOND, far | {"hook_id": "x"}], "model": "tiny"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "hooks[1].layer_name")
    assert fake.requests[-1].model_id == "tiny"


def test_hooks_of_other_clients_are_listed_in_the_rest_format(http: httpx.Client, fake: FakeInference) -> None:
    site = site_pb2.Site(component="resid_pre", layer=3, side=site_pb2.SIDE_INPUT)
    fake.hooks.append(pb.HookSpec(hook_id="g", site=site))
    fake.hooks.append(pb.HookSpec(hook_id="e", site=site_pb2.Site(component="embedding")))
    assert listed(http) == [
        {
            "layer_name": "model.layers.3",
            "component": "resid_pre",
            "hook_id": "g",
            "capture_input": True,
            "capture_output": False,
        },
        {
            "layer_name": None,
            "component": "embedding",
            "hook_id": "e",
            "capture_input": False,
            "capture_output": True,
        },
    ]


def test_what_was_listed_can_be_registered_again(http: httpx.Client) -> None:
    http.post(PATH, json=[FIRST, SECOND])
    kept = listed(http)
    http.delete(PATH)
    assert http.post(PATH, json={"hooks": kept}).status_code == 200
    assert listed(http) == kept


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"hooks": [FIRST, FIRST | {"component": "x", "hook_id": "y"}]}, "hooks[1].component"),
        ([FIRST, FIRST | {"component": "x", "hook_id": "y"}], "[1].component"),
        (FIRST | {"component": "x"}, "component"),
        ({"layer_name": "h.1"}, "component"),
        ({"hooks": []}, "hooks"),
        ({"hooks": [FIRST], "x": 1}, "x"),
        ({"hooks": ["a"]}, "hooks[0]"),
        (FIRST | {"capture_output": False}, "capture_output"),
        (FIRST | {"x": 1}, "x"),
    ],
)
def test_a_mistake_is_400_and_stores_nothing(http: httpx.Client, body: Any, param: str) -> None:
    response = http.post(PATH, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert listed(http) == []


@pytest.mark.parametrize("body", [3, "a", None, []])
def test_a_body_of_another_form_is_400(http: httpx.Client, body: Any) -> None:
    response = http.post(PATH, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_taken_id_is_409(http: httpx.Client) -> None:
    http.post(PATH, json=FIRST)
    response = http.post(PATH, json={"hooks": [SECOND, FIRST]})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (409, "hooks[1].hook_id", "id_taken")


def test_all_are_cleared(http: httpx.Client) -> None:
    http.post(PATH, json=[FIRST, SECOND])
    response = http.delete(PATH)
    assert (response.status_code, response.json()) == (
        200,
        {"status": "hooks cleared", "cleared_hooks": ["a", "b"]},
    )
    assert listed(http) == []


@pytest.mark.parametrize(
    "arguments", [{"json": {"hook_ids": ["a"]}}, {"params": {"hook_ids": "a"}}, {"params": {"hook_ids": ["a"]}}]
)
def test_some_are_cleared(http: httpx.Client, arguments: dict[str, Any]) -> None:
    http.post(PATH, json=[FIRST, SECOND])
    assert http.request("DELETE", PATH, **arguments).json()["cleared_hooks"] == ["a"]
    assert [hook["hook_id"] for hook in listed(http)] == ["b"]


def test_an_empty_list_clears_nothing(http: httpx.Client) -> None:
    http.post(PATH, json=FIRST)
    assert http.request("DELETE", PATH, json={"hook_ids": []}).json()["cleared_hooks"] == []
    assert len(listed(http)) == 1
    assert http.request("DELETE", PATH, json={"hook_ids": None}).json()["cleared_hooks"] == ["a"]


def test_a_body_that_cannot_be_read_clears_nothing(http: httpx.Client) -> None:
    http.post(PATH, json=FIRST)
    for content, kind in (("{", "application/json"), ('{"hook_ids": ["a"]}', "text/plain"), ("[]", "application/json")):
        response = http.request("DELETE", PATH, content=content, headers={"Content-Type": kind})
        assert response.status_code == 400
    assert len(listed(http)) == 1


def test_clearing_an_unknown_id_is_404(http: httpx.Client) -> None:
    response = http.request("DELETE", PATH, json={"hook_ids": ["nobody"]})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_id")
    assert response.json()["error"]["param"] == "hook_ids[0]"
