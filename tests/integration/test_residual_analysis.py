"""Analyses of the residual stream and tuned lenses against real models: identities, what is refused, every surface.

python -m pytest tests/integration/test_residual_analysis.py
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import Client
from neuroscope.analysis import AnalysisClient, InformationFlow, TunedLens
from neuroscope.vocabulary.sites import Point
from neuroscope_analysis.residual import flow
from neuroscope_inference.engine.model import LoadedModel
from tests.support.compare import assert_close
from tests.support.loaded import capture_here
from tests.support.random_models import FAMILIES, make_model
from tests.support.services import Service

IDS = np.random.default_rng(0).integers(5, 500, 24).tolist()
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def client(analysis: Service) -> Iterator[AnalysisClient]:
    with AnalysisClient(analysis.target) as found:
        yield found


# ------------------------------------------------------------------------------------------------ what it finds


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_adds_up(
    family: str, family_dir: Callable[[str], Path], family_model: Callable[[str], LoadedModel]
) -> None:
    """To the last stream, attributions to the logits, heads to attention, neurons to the MLP; in many chunks."""
    folder = family_dir(family)
    seen = capture_here(family_model(family), IDS)
    logits = seen[Point("logits")][0, -1].astype(np.float64)
    final = seen[Point("resid_post", 3)][0].astype(np.float64)
    asked: dict[str, Any] = {} if Point("mlp_neurons", 0) not in seen else {"neurons": 512}
    with AnalysisClient.local(model=[str(folder)], chunk_budget_bytes=100_000) as client:
        found = client.analyze_residual_stream(IDS, answer=7, other=300, **asked)
    error, attribution = found.errors[0], found.attributions[0]
    assert error.components < TOLERANCE
    assert error.heads is not None
    assert error.heads < TOLERANCE
    np.testing.assert_allclose(found["share"].values.sum(axis=0), 1, atol=TOLERANCE)
    assert_close("stream", found["stream_norm"].values[-1], np.linalg.norm(final, axis=1), tolerance=TOLERANCE)
    for component in ("attn_contrib", "mlp_contrib"):
        for layer in range(4):
            written = seen[Point(component, layer)][0].astype(np.float64)
            name = f"{component[0]}{layer}"
            assert_close(
                name, found["norm"].sel(component=name).values, np.linalg.norm(written, axis=1), tolerance=TOLERANCE
            )
            along = (written * final).sum(axis=1) / np.square(final).sum(axis=1)
            np.testing.assert_allclose(found["share"].sel(component=name).values, along, atol=TOLERANCE)
    largest = float(np.abs(logits).max())
    cap = attribution.softcap
    for token, told in ((7, attribution.answer), (300, attribution.other)):
        assert told is not None
        assert told.logit == pytest.approx(logits[token], abs=TOLERANCE * largest)
        capped = told.sum if cap is None else cap * np.tanh(told.sum / cap)
        assert capped == pytest.approx(logits[token], abs=TOLERANCE * largest)
    direct = dict(zip(found.components, found["direct"].values.tolist(), strict=True))
    assert sum(direct.values()) + attribution.constant == pytest.approx(attribution.sum, abs=TOLERANCE * largest)
    heads = np.nan_to_num(found["direct_head"].values).sum(axis=1) + found["direct_head_bias"].values
    for layer in range(4):
        assert heads[layer] == pytest.approx(direct[f"a{layer}"], abs=TOLERANCE * largest)
    if asked and family != "llama4":  # of its layers some are mixtures
        by_layer = np.zeros(4)
        for neuron in attribution.neurons:
            by_layer[neuron.layer] += neuron.logit
        assert len(attribution.neurons) == 512
        strongest = attribution.neurons[0]
        neurons = seen[Point("mlp_neurons", strongest.layer)][0, -1]
        assert strongest.activation == pytest.approx(float(neurons[strongest.neuron]), rel=1e-4)
    assert found["lens_kl"].values[-1] == pytest.approx(0, abs=1e-5)
    ranks = (logits > logits[7]).sum()
    assert found["lens_answer_rank"].values[-1, -1] == ranks


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_neurons_and_the_bias_are_the_mlp(family: str, family_dir: Callable[[str], Path]) -> None:
    """All neurons of a layer, and what its bias and the norm behind it add, are what the MLP contributes."""
    folder = family_dir(family)
    with Client.local(model=[str(folder)]) as below:
        weights = below.weights("W_out", "b_out") if family == "gpt2" else below.weights("W_out")
        width = weights["W_out"].shape[1]
    with AnalysisClient.local(model=[str(folder)]) as client:
        plain = client.analyze_residual_stream(IDS, parts="attribution", answer=7)
        every = client.analyze_residual_stream(
            IDS, parts="attribution", answer=7, neurons=[(2, neuron) for neuron in range(width)]
        )
    total = sum(neuron.logit for neuron in every.attributions[0].neurons)
    expected = float(plain["direct"].sel(component="m2").values)
    if family == "gpt2":
        with Client.local(model=[str(folder)]) as below:
            end = below.weights("unembedding")
        gain = end.of("final_norm.w") * end.of("W_U")[:, 7]
        expected -= float(weights.of("b_out", 2) @ (gain - gain.mean())) / plain.attributions[0].norm_scale
    assert total == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_oss"])
def test_routes_are_norms_of_what_is_moved(
    family: str, family_dir: Callable[[str], Path], family_model: Callable[[str], LoadedModel]
) -> None:
    """As they are written: a vector of every head for every pair of tokens, in chunks that cut the prompt."""
    folder = family_dir(family)
    seen = capture_here(family_model(family), IDS)
    with Client.local(model=[str(folder)]) as below:
        weights = below.weights("ov", "norms")
    with AnalysisClient.local(model=[str(folder)], chunk_budget_bytes=100_000) as client:
        found = client.analyze_residual_stream(IDS, parts=["routing"], answer=7, queries=[3, -1], by_head=True)
    assert found["routing"].coords["query"] == [3, 23]
    for layer in range(4):
        pattern, values = seen[Point("attention_pattern", layer)][0], seen[Point("value", layer)][0]
        output = weights.of("W_O", layer)
        shared = np.repeat(values, len(output) // values.shape[1], axis=1)
        if family == "gemma2":
            output = output * weights.of("ln1_post.w", layer)
        moved = np.einsum("hqk,khi,hid->hqkd", pattern[:, [3, 23]].astype(np.float64), shared, output)
        if family == "gemma2":
            attended = seen[Point("attn_out", layer)][0, [3, 23]].astype(np.float64)
            moved /= np.sqrt(np.square(attended).mean(axis=1) + 1e-6)[None, :, None, None]
        whole, each = np.linalg.norm(moved.sum(axis=0), axis=-1), np.linalg.norm(moved, axis=-1)
        assert_close("routing", found["routing"].sel(layer=layer).values, whole, tolerance=1e-4)
        assert_close("by head", found["routing_head"].sel(layer=layer).values, each, tolerance=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "mixtral"])
def test_flow_runs_where_norms_and_parallel_blocks_are(family: str, tmp_path: Path) -> None:
    """The input carries everything, what is written to the logits adds up, and survival begins with all."""
    folder = make_model(family, tmp_path / family, num_hidden_layers=2)
    other = [*IDS[:3], 77, *IDS[4:8]]
    with AnalysisClient.local(model=[str(folder)]) as client:
        found = client.analyze_residual_stream(
            IDS[:8], parts=["flow"], answer=7, other=300, corrupted=other, least_effect=1e-6, max_writers=40
        )
    told = found.flows[0]
    assert told.writer("input").effect == pytest.approx(1, abs=1e-3)
    for writer in told.writers:
        began = 0 if writer.name == "input" else int(writer.name[1]) + 1
        behind = [share for _, share in writer.rewriters]
        assert writer.written_norm > 0
        assert len(writer.survival) == 3
        if began == 2:
            assert writer.survival[2] == pytest.approx(1, abs=0.5 + sum(map(abs, behind)))
    graph = told.to_networkx()
    assert set(graph.nodes) <= {"input", "logits", "m0", "m1", *(f"a{x}.h{y}" for x in range(2) for y in range(8))}
    assert {edge.reader for edge in told.edges} & {"logits"}


def test_flow_is_the_same_in_chunks_and_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of prompts longer than a chunk, and than what is held of the clean run."""
    folder = make_model("llama", tmp_path / "llama", num_hidden_layers=2)

    def found(chunk_budget_bytes: int, clean_bytes: int) -> InformationFlow:
        monkeypatch.setenv("NEUROSCOPE_ANALYSIS_CHUNK_BUDGET_BYTES", str(chunk_budget_bytes))
        monkeypatch.setattr(flow, "_CLEAN_BYTES", clean_bytes)
        with AnalysisClient.local(model=[str(folder)]) as client:
            return client.analyze_residual_stream(
                IDS[:8], parts=["flow"], answer=7, corrupted=[*IDS[:3], 77, *IDS[4:8]], max_writers=2
            ).flows[0]

    whole = found(2**24, 2**27)
    for chunk_budget_bytes, clean_bytes in ((20_000, 2**27), (20_000, 20_000)):
        again = found(chunk_budget_bytes, clean_bytes)
        for one, other in zip(again.writers, whole.writers, strict=True):
            assert one.name == other.name
            assert one.written_norm == pytest.approx(other.written_norm, rel=1e-4)
            assert one.survival == pytest.approx(other.survival, abs=1e-4)


def test_lenses_agree_with_the_clients_own(client: AnalysisClient, inference: Service) -> None:
    with Client(inference.target) as below:
        seen = below.logit_lens(CLEAN, top_k=3, tokens=[" Mary"], model_id="neuroscope-tiny")
    found = client.analyze_residual_stream(CLEAN, parts="lens", answer=" Mary", top_k=3, model_id="neuroscope-tiny")
    assert np.array_equal(found["lens_tokens"].values, seen.top_token_ids)
    np.testing.assert_allclose(found["lens_probability"].values, np.exp(seen.top_log_probabilities), rtol=1e-5)
    np.testing.assert_array_equal(found["lens_answer_rank"].values, seen.ranks[..., 0])
    np.testing.assert_allclose(found["lens_kl"].values, seen.kl, atol=1e-5)
    point = seen.emergence(0)[-1]
    assert point is not None
    assert found.lenses[0].emergence == (point.layer or 0) + 1
    logs = seen.top_log_probabilities
    assert np.all(found["lens_entropy"].values >= -(np.exp(logs) * logs).sum(axis=-1) - 1e-5)


@pytest.fixture(scope="module")
def texts(inference: Service) -> list[str]:
    """What the bundled model writes by itself."""
    with Client(inference.target) as below:
        found: list[str] = []
        for seed in range(16):
            written = below.generate(
                "Once upon a time",
                max_tokens=48,
                temperature=1.0,
                seed=seed,
                ignore_eos=True,
                model_id="neuroscope-tiny",
            )
            for _ in written:
                pass
            found.append("Once upon a time" + written.text)
    return found


def test_a_tuned_lens_is_nearer_to_the_model(client: AnalysisClient, texts: list[str], tmp_path: Path) -> None:
    """On held-out texts, layer by layer: the ridge's translator, and that of L-BFGS more so. It is kept and loaded."""
    ridge = client.train_tuned_lens(texts, objective="ridge", model_id="neuroscope-tiny")
    trained = client.train_tuned_lens(texts, objective="kl", max_iterations=8, model_id="neuroscope-tiny")
    print(trained.layers)
    for plain, each in zip(ridge.layers, trained.layers, strict=True):
        assert plain.held_out_kl_after < 0.8 * plain.held_out_kl_before
        assert each.held_out_kl_ridge == pytest.approx(plain.held_out_kl_after, rel=1e-3)
        assert each.held_out_kl_after <= each.held_out_kl_ridge * 1.01
    assert sum(each.held_out_kl_after for each in trained.layers) < sum(each.held_out_kl_after for each in ridge.layers)
    assert trained.layers[0].iterations
    trained.lens.save(tmp_path / "lens.safetensors")
    lens = TunedLens.load(tmp_path / "lens.safetensors")
    assert lens.provenance["objective"] == "kl"
    assert lens.provenance["held_out_kl"]["3"]["after"] == trained.layers[3].held_out_kl_after
    found = client.analyze_residual_stream(
        CLEAN, parts="lens", answer=" Mary", tuned_lens=lens, model_id="neuroscope-tiny"
    )
    assert found["tuned_kl"].values[:4].mean() < found["lens_kl"].values[:4].mean()
    np.testing.assert_allclose(found["tuned_kl"].values[4], 0, atol=1e-5)
    np.testing.assert_array_equal(found["tuned_tokens"].values[4], found["lens_tokens"].values[4])
