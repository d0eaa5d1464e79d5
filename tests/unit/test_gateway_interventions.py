"""Interventions over REST.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_interventions.py"""

from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope import edit, zero
from neuroscope.errors import InvalidRequestError, UnknownIdError
from neuroscope.interventions import Intervention, to_messages
from neuroscope.interventions.forms import ACTIONS
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_gateway.examples.interventions import EXAMPLES
from tests.support.fake_inference import FakeInference

PATHS = ["/v1/chat/completions", "/v1/chat/completions/with_activations"]
HELLO = [{"role": "user", "content": "Hello!"}]
ZERO = {"layer_name": "transformer.h.5", "component": "attention", "heads": [1], "action": "zero"}
SCALE = {"layer_name": "transformer.h.5", "component": "mlp", "action": "scale", "factor": 0.5}


def ask(http: httpx.Client, interventions: Any, path: str = PATHS[0], **parameters: Any) -> httpx.Response:
    return http.post(path, json={"messages": HELLO, "interventions": interventions} | parameters)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_interventions_reach_the_service(http: httpx.Client, fake: FakeInference, path: str, stream: bool) -> None:
    exact = edit("resid_post", 3, lambda act: act + np.ones(6), positions=[-1])
    assert ask(http, [ZERO, SCALE, exact.to_json()], path, stream=stream).status_code == 200
    request: pb.GenerateRequest = fake.requests[-1]
    assert [repr(Intervention(message)) for message in request.interventions] == [
        "head_output.5[heads 1] := 0",
        "attn_out.5 := act·0.5".replace("attn", "mlp"),
        "resid_post.3[positions -1] := act + tensor(6)",
    ]
    assert request.interventions[2] == exact.message


@pytest.mark.parametrize("nothing", [None, []])
def test_none_are_none(http: httpx.Client, fake: FakeInference, nothing: Any) -> None:
    assert ask(http, nothing).status_code == 200
    assert not fake.requests[-1].interventions


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.get("action", "expression"))
def test_every_example_of_the_reference_works(http: httpx.Client, fake: FakeInference, example: dict[str, Any]) -> None:
    response = ask(http, [example])
    assert (response.status_code, response.text.count("error")) == (200, 0)
    assert list(fake.requests[-1].interventions) == to_messages([example])


def test_the_reference_has_an_example_of_every_action(http: httpx.Client) -> None:
    assert {example["action"] for example in EXAMPLES if "action" in example} == set(ACTIONS)
    assert any("expression" in example for example in EXAMPLES)
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    for name in ("ChatCompletionRequest", "ActivationCompletionRequest"):
        assert schemas[name]["properties"]["interventions"]["examples"] == [EXAMPLES]
    assert schemas["Scale"]["required"] == ["component", "action", "factor"]
    page = http.get("/docs").text
    assert "Adds a multiple of a direction" in page


@pytest.mark.parametrize(
    ("wrong", "param", "code"),
    [
        ({**SCALE, "factor": "2"}, "interventions[1].factor", "invalid_request"),
        ({**SCALE, "factor": None}, "interventions[1].factor", "invalid_request"),
        ({key: SCALE[key] for key in SCALE if key != "factor"}, "interventions[1].factor", "missing_parameter"),
        ({**SCALE, "size": 2}, "interventions[1].size", "unknown_parameter"),
        ({**SCALE, "action": "grow"}, "interventions[1].action", "invalid_request"),
        ({**SCALE, "heads": [1]}, "interventions[1].heads", "invalid_request"),
        ({**SCALE, "heads": ["a"]}, "interventions[1].heads[0]", "invalid_request"),
        ({**SCALE, "positions": {"start": 3, "stop": 2}}, "interventions[1].positions", "invalid_request"),
        ({**SCALE, "component": "mlpx"}, "interventions[1].component", "unknown_site"),
        ({**SCALE, "layer_name": "h5"}, "interventions[1].layer_name", "unknown_site"),
        ({**ZERO, "action": "clamp"}, "interventions[1].minimum", "invalid_request"),
        ({**ZERO, "action": "add", "direction": [1, [2]]}, "interventions[1].direction", "uncarriable_tensor"),
        ({**ZERO, "expression": {"constant": 1}}, "interventions[1].expression", "unknown_parameter"),
        ({"component": "mlp", "expression": {"x": 1}}, "interventions[1].expression", "invalid_request"),
        ({"site": {"component": "mlp"}}, "interventions[1].value", "invalid_request"),
        ("zero", "interventions[1].action", "invalid_request"),
        # Known to the service only.
        ({**SCALE, "layer_name": "transformer.h.99"}, "interventions[1].layer_name", "unknown_site"),
    ],
)
def test_mistakes_are_400_and_name_the_parameter(http: httpx.Client, wrong: Any, param: str, code: str) -> None:
    for path in PATHS:
        response = ask(http, [ZERO, wrong], path)
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, param, code)
        assert error["type"] == "invalid_request_error"


def test_one_alone_is_not_a_list(http: httpx.Client) -> None:
    response = ask(http, ZERO)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "interventions")


def test_nan_is_refused(http: httpx.Client) -> None:
    body = '{"messages": [{"role": "user", "content": "x"}], "interventions": [{"component": "mlp", "action": "add",'
    response = http.post(
        PATHS[0], content=body + ' "direction": [1, NaN]}]}', headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.json()["error"]["param"]) == (400, "interventions[0].direction")


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("interventions[1].value.binary.right.constant", "interventions[1].factor"),
        ("interventions[1].select.positions", "interventions[1].positions"),
        ("interventions[0].value", "interventions[0].action"),
        ("interventions[0].site.side", "interventions[0].is_input"),
        ("interventions[0].intervention_id", "interventions[0].intervention_id"),
        ("interventions[1]", "interventions[1]"),
        ("interventions[1].select", "interventions[1]"),
        ("interventions[2].value.tensor.tensor_id", "interventions[2].value.tensor.tensor_id"),
        ("interventions[7]", "interventions[7]"),
        ("interventions", "interventions"),
    ],
)
def test_the_services_errors_speak_of_what_was_written(
    http: httpx.Client, fake: FakeInference, field: str, param: str
) -> None:
    fake.script.refusal = InvalidRequestError(f"{field} does not fit", field=field)
    error = ask(http, [ZERO, SCALE, zero("mlp", 3).to_json()]).json()["error"]
    assert (error["param"], error["message"]) == (param, f"{param} does not fit")


def test_a_tensor_that_the_service_does_not_have_is_404(http: httpx.Client, fake: FakeInference) -> None:
    field = "interventions[0].value.binary.right.tensor.tensor_id"
    fake.script.refusal = UnknownIdError("no tensor 'd' was uploaded", field=field)
    response = ask(http, [{"component": "mlp", "action": "add", "direction": {"tensor_id": "d"}}])
    assert (response.status_code, response.json()["error"]["param"]) == (404, "interventions[0].direction")
