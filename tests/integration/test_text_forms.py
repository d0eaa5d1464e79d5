"""The text form of every public value fits a screen and shows no name of the contract's enums.

python -m pytest tests/integration/test_text_forms.py
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuroscope import Client, Hook, contrast, noise, replace, zero
from neuroscope import experiments as ex
from neuroscope.analysis import AnalysisClient
from neuroscope.rest import ActivationHookSpec, RESTActivationCaptureClient
from tests.support.services import Service, running

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
METRIC = ex.logit_diff(" Mary", " John")
MOST_CHARACTERS, MOST_LINES = 1_000, 24
ENUM = re.compile(r"\b(CIRCUIT|DATA_TYPE|AXIS|SIDE|FINISH_REASON|REDUCED|ATTENTION_ROLE|CAUSAL)_[A-Z_]+")
MILLISECONDS = re.compile(r"\b1[6-9]\d{11}\b")


@pytest.fixture(scope="module")
def values(bundled_model_dir: Path) -> dict[str, Any]:
    with warnings.catch_warnings(action="ignore"):  # composition of rotated queries and keys
        folder = str(bundled_model_dir)
        return {name: value for source in (_of_inference, _of_analysis) for name, value in source(folder)}


def _of_inference(folder: str) -> Iterator[tuple[str, Any]]:
    with Client.local(folder) as client:
        yield "model info", client.model()
        yield "tokens", client.tokenize(CLEAN)
        yield "long tokens", client.tokenize(" ".join([CLEAN] * 20))
        cache = client.capture(CLEAN, ["resid_post", "attention_pattern"])
        yield "cache", cache
        yield "activation", next(iter(cache.by_name().values()))
        generation = client.generate(CLEAN, hooks=["resid_post"], max_tokens=3)
        tokens = list(generation)
        yield "generation", generation
        yield "token", tokens[0]
        yield "activations of a token", tokens[0].activations
        yield "logit lens", client.logit_lens(CLEAN, tokens=[" Mary"])
        swept = client.patch(CLEAN, CORRUPTED).residual().heads().run(metric=METRIC)
        yield "sweep", swept
        yield "scores", swept["resid_pre"]
        yield "experiment", swept.experiment
        yield "attribution", client.attribute(CLEAN, CORRUPTED, metric=METRIC, method="eap-ig")
        dataset = client.dataset("ioi", count=8)
        yield "dataset", dataset
        yield "pair", dataset[0]
        weights = client.weights("W_Q")
        yield "weights", weights
        yield "weight", weights["W_Q"]
        yield "edge graph", client.edge_graph()
        yield "projected", client.project(cache["resid_post", 3][0])
        directions = contrast(client, ["I love it", "great"], ["I hate it", "bad"])
        yield "directions", directions
        yield "direction", directions.best
        yield "hook", Hook("resid_post", 3)
        yield "metric", METRIC
        yield (
            "interventions",
            [
                zero("attention", 3, heads=[1]),
                noise(0.1, seed=1),
                replace("resid_post", 2, cache["resid_post", 2]),
            ],
        )


def _of_analysis(folder: str) -> Iterator[tuple[str, Any]]:
    with AnalysisClient.local(folder) as client:
        attention = client.analyze_attention([CLEAN], roles=["induction"], test=False)
        yield "attention", attention
        yield "labels", attention.labels[:4]
        yield "residual stream", client.analyze_residual_stream([CLEAN], answer=" Mary", other=" John")
        yield "composition", client.measure_composition()
        found = client.discover_circuit("copying", pairs=8, size=0.1)
        yield "discovery", found
        yield "circuit", found.circuit
        yield "nodes", found.circuit.nodes
        yield "edges", found.circuit.all_edges
        yield "comparison", found.circuit.compare(found.circuit.strongest(count=20))
        yield "table of a circuit", _text(found.circuit)
        yield "table of an attention analysis", _text(attention)


def test_values_fit_a_screen(values: dict[str, Any]):
    assert len(values) >= 35
    _check(values)


def test_values_of_the_rest_classes_fit_a_screen(inference: Service, llama_dir: Path):
    with (
        running("neuroscope_gateway", "--port", "0", "--inference", inference.target) as gateway,
        RESTActivationCaptureClient(gateway.target) as client,
    ):
        loaded = client.load_model(str(llama_dir))
        hooks = [ActivationHookSpec("transformer.h.2", "residual", "a")]
        generated = client.generate_with_activations([{"role": "user", "content": "Hello"}], hooks, max_tokens=4)
        streamed = list(client.stream_with_activations([{"role": "user", "content": "Hello"}], hooks, max_tokens=4))
        _check(
            {
                "load": loaded,
                "architecture": loaded.architecture,
                "generation": generated,
                "activation": generated.activations["a"][0],
                "stream": streamed[0],
                "data": generated.export_for_neuroscope(),
            }
        )


def _check(values: dict[str, Any]) -> None:
    for name, value in values.items():
        text = value if isinstance(value, str) else repr(value)
        assert len(text) <= MOST_CHARACTERS * (4 if name.startswith("table") else 1), f"{name}: {len(text)} characters"
        assert text.count("\n") < MOST_LINES * (2 if name.startswith("table") else 1), f"{name}: {text}"
        assert " object at 0x" not in text, f"{name}: {text}"
        assert not ENUM.search(text), f"{name}: {text}"
        assert not MILLISECONDS.search(text), f"{name}: {text}"


def _text(value: Any) -> str:
    return str(value.table())


def test_the_page_of_a_circuit_shows_no_enum_names(values: dict[str, Any]):
    page = values["circuit"].to_text("html")
    assert not ENUM.search(page)
    assert not MILLISECONDS.search(page)
    assert '"search.method": "eap-ig"' in page
