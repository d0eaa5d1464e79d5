"""Circuits as values: the graph, what is pruned, files."""

import numpy as np
import pytest

from neuroscope.circuits import Circuit, ComponentGraph
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb

MODEL = pb.CircuitModel(model_id="tiny", layer_count=2, head_count=4, key_value_head_count=2, d_model=8)
GRAPH = ComponentGraph.of_model(MODEL)


def scores(seed=0):
    return np.where(GRAPH.mask, np.random.default_rng(seed).normal(size=GRAPH.mask.shape), np.nan)


def test_the_graph_of_a_model_counts_edges_as_the_reference_does():
    plain = ComponentGraph.of_model(pb.CircuitModel(layer_count=12, head_count=12))
    assert plain.edge_count == 32_491  # GPT-2 small, Syed et al. 2023
    assert len(plain.senders) == 1 + 12 * 13


def test_keys_and_values_are_read_by_every_head_of_their_group():
    assert GRAPH.readers("a1.h1<k>") == ["a1.h2", "a1.h3"]
    assert GRAPH.readers("a1.h1<q>") == ["a1.h1"]
    assert GRAPH.readers("m0") == ["m0"]


def test_a_parallel_layer_has_no_edge_from_its_heads_to_its_mlp():
    model = pb.CircuitModel(layer_count=1, head_count=1, is_parallel=True)
    graph = ComponentGraph.of_model(model)
    assert ("a0.h0", "m0") not in graph.names(graph.mask)
    assert ("a0.h0", "logits") in graph.names(graph.mask)


def test_what_leads_nowhere_is_pruned():
    kept = [("input", "a0.h1<v>"), ("a0.h2", "a1.h1<k>"), ("a1.h3", "logits")]
    dead = [("a0.h1", "logits"), ("input", "a1.h0<q>"), ("m0", "a1.h0<v>")]
    live = GRAPH.live(GRAPH.marked([*kept, *dead]))
    assert sorted(GRAPH.names(live)) == sorted(kept)  # the head that reads the key is not the one that writes it


def test_the_strongest_edges_are_those_of_the_largest_magnitude():
    values = scores()
    chosen = GRAPH.strongest(values, 10)
    assert chosen.sum() == 10
    assert np.abs(values[chosen]).min() >= np.nanmax(np.abs(values[~chosen]))


def test_a_circuit_survives_a_file(tmp_path):
    values = scores()
    circuit = Circuit.assembled(GRAPH, GRAPH.strongest(values, 20), model=MODEL, name="some", edge_scores=values)
    circuit.save(tmp_path / "some.json")
    again = Circuit.load(tmp_path / "some.json")
    assert again == circuit
    assert len(again.edges) == 20
    assert np.array_equal(again.in_circuit, circuit.in_circuit)
    np.testing.assert_array_equal(again.edge_scores.values, values.astype(np.float32))


def test_pruning_to_a_size_gives_a_circuit_of_the_same_graph():
    values = scores()
    circuit = Circuit.assembled(GRAPH, GRAPH.mask, model=MODEL, edge_scores=values)
    small = circuit.strongest(size=0.2, prune=False)
    assert len(small.edges) == round(0.2 * GRAPH.edge_count)
    assert set(small.edges) <= set(circuit.edges)
    assert circuit.strongest(threshold=1.0, prune=False).edges.keys() == {
        name for name, edge in circuit.edges.items() if abs(edge.score) >= 1.0
    }
    pruned = circuit.strongest(size=0.2)
    assert np.array_equal(pruned.in_circuit, GRAPH.live(small.in_circuit))


@pytest.mark.parametrize(
    ("extent", "field"),
    [
        ({"size": 0.0}, "size"),
        ({"size": 1.5}, "size"),
        ({"count": 0}, "count"),
        ({"threshold": -1.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"size": 0.1, "count": 3}, "size, count"),
        ({}, "size"),
    ],
)
def test_an_extent_out_of_its_range_is_refused(extent, field):
    circuit = Circuit.assembled(GRAPH, GRAPH.mask, model=MODEL, edge_scores=scores())
    with pytest.raises(InvalidRequestError) as refused:
        circuit.strongest(**extent)
    assert refused.value.field == field


def test_an_edge_that_the_graph_does_not_have_is_refused_with_the_nearest():
    circuit = Circuit.assembled(GRAPH, GRAPH.mask, model=MODEL)
    with pytest.raises(InvalidRequestError, match=r"nearest: a1\.h3<q>"):
        circuit.with_edges(["input->a1.h9<q>"])
    with pytest.raises(InvalidRequestError, match=r"m1 does not reach a0\.h0<q>"):
        circuit.with_edges(["m1->a0.h0<q>"])


def test_networkx_has_the_nodes_and_an_edge_for_each_reader():
    circuit = Circuit.assembled(GRAPH, GRAPH.marked([("input", "a1.h1<k>"), ("a1.h3", "logits")]), model=MODEL)
    graph = circuit.to_networkx()
    assert list(graph.nodes) == ["input", "a1.h3", "logits"]
    assert set(graph.edges(keys=True)) == {("input", "a1.h3", "k"), ("a1.h3", "logits", "")}
