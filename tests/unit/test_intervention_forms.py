"""neuroscope.interventions.forms: interventions as JSON that people write.

pytest tests/unit/test_intervention_forms.py
"""

import base64
import json
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from neuroscope.errors import MLXIntegrationError
from neuroscope.interventions import Intervention, add, edit, replace, scale, zero
from neuroscope.interventions.expressions import Expression, captured, noise, tensor
from neuroscope.interventions.forms import ACTIONS, InterventionForm, from_json
from neuroscope.v1 import intervention_pb2 as pb

BASE = {"layer_name": "transformer.h.5", "component": "residual"}
HALVED = pb.FeatureEdits(dictionary_id="sae", edits=[pb.FeatureEdit(features=[3, 7], factor=0.5)])
HERE: dict[str, Any] = {"layer_name": "transformer.h.5"}
BYTES = base64.b64encode(np.array([1, 2], np.float16).tobytes()).decode()


@pytest.mark.parametrize(
    ("form", "made"),
    [
        ({"action": "zero"}, zero("residual", None, **HERE)),
        ({"action": "zero", "is_input": True}, zero("residual", None, is_input=True, **HERE)),
        ({"action": "zero", "intervention_id": "a"}, zero("residual", None, intervention_id="a", **HERE)),
        ({"action": "zero", "component": "attention", "heads": [3]}, zero("head_output", None, heads=[3], **HERE)),
        ({"action": "zero", "component": "mlp_out.5"}, zero("mlp_out", 5, **HERE)),
        ({"action": "zero", "positions": -1}, zero("residual", None, positions=-1, **HERE)),
        ({"action": "zero", "positions": [0, -1]}, zero("residual", None, positions=[0, -1], **HERE)),
        ({"action": "zero", "positions": {"start": 2}}, zero("residual", None, positions=slice(2, None), **HERE)),
        ({"action": "zero", "positions": {"stop": -1}}, zero("residual", None, positions=slice(0, -1), **HERE)),
        ({"action": "zero", "steps": 0}, zero("residual", None, steps=0, **HERE)),
        ({"action": "zero", "steps": {"start": 1, "stop": 4}}, zero("residual", None, steps=slice(1, 4), **HERE)),
        ({"action": "zero", "rows": [0, 2]}, zero("residual", None, rows=[0, 2], **HERE)),
        ({"action": "zero", "heads": None, "positions": None, "steps": None}, zero("residual", None, **HERE)),
        ({"action": "scale", "factor": 2}, scale("residual", None, 2, **HERE)),
        ({"action": "add", "direction": [1.5, 2]}, add("residual", None, [1.5, 2], **HERE)),
        ({"action": "add", "direction": {"tensor_id": "d"}, "coefficient": 4}, add("residual", None, "d", 4, **HERE)),
        (
            {"action": "add", "direction": {"dtype": "float16", "shape": [2], "data": BYTES}},
            add("residual", None, np.array([1, 2], np.float16), **HERE),
        ),
        ({"action": "replace", "value": [[[1.5, 2.5]]]}, replace("residual", None, [[[1.5, 2.5]]], **HERE)),
        ({"action": "replace", "value": 0.5}, edit("residual", None, 0.5, **HERE)),
        (
            {"action": "replace", "value": {"capture_id": "c", "plan_index": 1, "step": 2, "row": 3}},
            replace("residual", None, captured("c", 1, step=2, row=3), **HERE),
        ),
        (
            {"action": "noise", "standard_deviation": 0.1, "seed": 2**64 - 1, "mean": 1},
            edit("residual", None, lambda act: act + noise(0.1, seed=2**64 - 1, mean=1), **HERE),
        ),
        (
            {"action": "project_out", "direction": [1.5, 2]},
            edit("residual", None, lambda act: act.project_out([1.5, 2]), **HERE),
        ),
        (
            {"action": "clamp", "minimum": -1, "maximum": 1},
            edit("residual", None, lambda act: act.clamp(-1, 1), **HERE),
        ),
        ({"action": "clamp", "maximum": 1}, edit("residual", None, lambda act: act.clamp(maximum=1), **HERE)),
        (
            {"action": "mean", "reference": {"tensor_id": "r"}},
            edit("residual", None, lambda act: act.mean("r"), **HERE),
        ),
        (
            {"expression": {"clamp": {"operand": {"otherRow": {"row": 1}}, "minimum": 0}}},
            edit("residual", None, lambda act: act.row(1).clamp(0), **HERE),
        ),
        (
            {"action": "features", "dictionary_id": "sae", "features": [3, 7], "factor": 0.5},
            edit("residual", None, Expression(pb.Expression(features=HALVED)), **HERE),
        ),
        (
            {"expression": {"tensor": {"tensor_id": "x"}}},
            edit("residual", None, tensor("x"), **HERE),
        ),
    ],
)
def test_every_form_means_what_python_writes(form: dict[str, Any], made: Intervention) -> None:
    assert Intervention.from_json(json.loads(json.dumps(BASE | form))) == made


def test_a_component_without_a_layer_is_every_layer() -> None:
    assert Intervention.from_json({"component": "mlp", "action": "zero"}) == zero("mlp")


def test_the_exact_form() -> None:
    made = edit("resid_post", 5, lambda act: act * (1 / 3), positions=[1])
    assert from_json(made.to_json(), "x") == made.message
    camel = {"site": {"component": "mlp", "layerName": "blocks.3"}, "value": {"otherRow": {"row": 1}}}
    assert repr(Intervention.from_json(camel)) == "mlp_out.3 := act.row(1)"


@pytest.mark.parametrize(
    ("form", "field", "message"),
    [
        ({}, "action", "An edit has an action"),
        ({"action": "nothing"}, "action", "An edit has an action"),
        ({"action": 3}, "action", "An edit has an action"),
        ({"action": "zero", "factor": 1}, "factor", "no parameter of this name"),
        ({"action": "zero", "expression": {}}, "expression", "no parameter of this name"),
        ({"action": "zero", "component": "mlpx"}, "component", "nearest: mlp"),
        ({"action": "zero", "component": ""}, "component", "at least 1 character"),
        ({"action": "zero", "component": 3}, "component", "valid string"),
        ({"action": "zero", "component": "\ud800"}, "component", "unicode"),
        ({"action": "zero", "layer_name": "h5"}, "layer_name", "unknown layer name"),
        ({"action": "zero", "component": "embedding"}, "layer_name", "belongs to no layer"),
        ({"action": "zero", "component": "value", "is_input": True}, "is_input", "no input"),
        ({"action": "zero", "heads": [1]}, "heads", "has no heads"),
        ({"action": "zero", "heads": []}, "heads", "at least 1 item"),
        ({"action": "zero", "heads": ["1"]}, "heads[0]", "valid integer"),
        ({"action": "zero", "heads": [2**31]}, "heads[0]", "less than or equal"),
        ({"action": "zero", "positions": []}, "positions", "at least 1 item"),
        ({"action": "zero", "positions": [1, 1]}, "positions", "twice"),
        ({"action": "zero", "positions": {"start": 3, "stop": 3}}, "positions", "selects nothing"),
        ({"action": "zero", "positions": {"begin": 3}}, "positions.begin", "no parameter"),
        ({"action": "zero", "steps": {"start": 3, "stop": 3}}, "steps", "selects nothing"),
        ({"action": "zero", "steps": [1]}, "steps", "A number, or start and stop"),
        ({"action": "zero", "steps": -1}, "steps", "greater than or equal"),
        ({"action": "zero", "rows": [-1]}, "rows[0]", "greater than or equal"),
        ({"action": "scale"}, "factor", "required"),
        ({"action": "scale", "factor": "2"}, "factor", "valid number"),
        ({"action": "scale", "factor": float("nan")}, "factor", "finite"),
        ({"action": "add"}, "direction", "required"),
        ({"action": "add", "direction": 3}, "direction", "list of numbers"),
        ({"action": "add", "direction": []}, "direction", "empty"),
        ({"action": "add", "direction": [1, "x"]}, "direction", "no numbers"),
        ({"action": "add", "direction": [1, None]}, "direction", "no numbers"),
        ({"action": "add", "direction": [True]}, "direction", "true and false"),
        ({"action": "add", "direction": [[1], [1, 2]]}, "direction", "different lengths"),
        ({"action": "add", "direction": [1, float("inf")]}, "direction", "inf"),
        ({"action": "add", "direction": {}}, "direction.tensor_id", "required"),
        ({"action": "add", "direction": {"tensor_id": ""}}, "direction.tensor_id", "at least 1"),
        ({"action": "add", "direction": {"capture_id": "c", "row": -1}}, "direction.row", "greater"),
        ({"action": "add", "direction": [1.0], "coefficient": "4"}, "coefficient", "valid number"),
        (
            {"action": "add", "direction": {"dtype": "float16", "shape": [3], "data": BYTES}},
            "direction.data",
            "4 bytes are no float16",
        ),
        ({"action": "add", "direction": {"dtype": "f2", "shape": [2], "data": BYTES}}, "direction.dtype", "unknown"),
        (
            {"action": "add", "direction": {"dtype": "", "shape": [2], "data": BYTES}},
            "direction.dtype",
            "no numpy type",
        ),
        ({"action": "add", "direction": {"dtype": "int8", "shape": [1], "data": "?"}}, "direction.data", "base64"),
        ({"action": "replace", "value": "x"}, "value", "number"),
        ({"action": "noise", "standard_deviation": -1}, "standard_deviation", "greater"),
        ({"action": "noise", "standard_deviation": 1, "seed": -1}, "seed", "greater"),
        ({"action": "project_out", "direction": [0, 0]}, "direction", "zeros"),
        ({"action": "clamp"}, "minimum", "a minimum, a maximum or both"),
        ({"action": "clamp", "minimum": 2, "maximum": 1}, "minimum", "above the maximum"),
        ({"action": "mean", "reference": {"id": "r"}}, "reference.tensor_id", "required"),
        ({"expression": {"nothing": 1}}, "expression", "no field named"),
        ({"expression": {}}, "expression", "missing"),
        ({"expression": {"constant": "NaN"}}, "expression", "nan"),
        ({"expression": 3}, "expression", "dictionary"),
    ],
)
def test_mistakes_name_the_field_that_was_written(form: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(MLXIntegrationError, match=message) as caught:
        from_json(BASE | form, "interventions[1]")
    assert caught.value.http_status == 400
    assert caught.value.field == f"interventions[1].{field}"


@pytest.mark.parametrize("value", [3, None, "zero", []])
def test_something_else_is_no_edit(value: Any) -> None:
    with pytest.raises(MLXIntegrationError, match="An edit has an action"):
        from_json(value, "interventions[0]")


def test_mistakes_in_the_exact_form_name_the_contracts_field() -> None:
    with pytest.raises(MLXIntegrationError) as caught:
        from_json({"site": {"component": "mlp"}, "value": {"constant": "Infinity"}}, "interventions[0]")
    assert caught.value.field == "interventions[0].value.constant"


def test_every_action_is_in_the_schema() -> None:
    schema = TypeAdapter(InterventionForm).json_schema()
    constants = {
        definition["properties"]["action"]["const"]
        for definition in schema["$defs"].values()
        if "action" in definition.get("properties", {})
    }
    assert constants == set(ACTIONS)


def test_every_node_of_the_contract_can_be_written_in_json() -> None:
    nodes = {
        "activation": {},
        "constant": 1.0,
        "tensor": {"tensor_id": "x"},
        "other_row": {"row": 1},
        "reference_mean": {"reference": {"tensor_id": "x"}},
        "noise": {"standard_deviation": 1.0},
        "binary": {"operator": "BINARY_OPERATOR_ADD", "left": {"activation": {}}, "right": {"constant": 1}},
        "project_out": {"operand": {"activation": {}}, "direction": {"tensor_id": "x"}},
        "clamp": {"operand": {"activation": {}}, "minimum": 0},
        "features": {"dictionary_id": "sae", "edits": [{"features": [3], "value": 0}]},
    }
    assert set(nodes) == {field.name for field in pb.Expression.DESCRIPTOR.fields}
    for name, node in nodes.items():
        assert Intervention.from_json(BASE | {"expression": {name: node}}).message.value.WhichOneof("node") == name
