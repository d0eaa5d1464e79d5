"""neuroscope.vocabulary.message_text: what people see of a message."""

from neuroscope.v1 import circuit_pb2, inference_pb2, tensor_pb2
from neuroscope.vocabulary.message_text import enum_text, plain


def test_enums_have_short_names_and_times_are_dates():
    provenance = circuit_pb2.CircuitProvenance(
        source="discovery",
        created_at_ms=1_796_127_139_812,
        search=circuit_pb2.CircuitSearch(method=circuit_pb2.CIRCUIT_METHOD_EAP_IG, steps=5),
    )
    assert plain(provenance) == {
        "source": "discovery",
        "search": {"method": "eap-ig", "steps": 5},
        "created_at": "2026-12-01T12:12:19+00:00",
    }


def test_defaults_are_there_where_they_are_wanted():
    model = inference_pb2.Model(model_id="a", dtype=tensor_pb2.DATA_TYPE_BFLOAT16, eos_token_ids=[2, 3])
    shown = plain(model, defaults=True)
    assert shown["dtype"] == "bfloat16"
    assert shown["eos_token_ids"] == [2, 3]
    assert shown["num_layers"] == 0
    assert "bos_token_id" not in shown
    assert plain(model) == {"model_id": "a", "dtype": "bfloat16", "eos_token_ids": [2, 3]}


def test_a_number_without_a_name_stays_a_number():
    method = circuit_pb2.CircuitMethod.DESCRIPTOR
    assert enum_text(method, 0) == "unspecified"
    assert enum_text(method, 99) == "99"
