"""Circuits as values: the graph, what is pruned, files."""

import json
import re

import numpy as np
import pytest
import scipy.stats

from neuroscope.circuits import Circuit, ComponentGraph
from neuroscope.circuits.comparison import ranks
from neuroscope.directions import Direction, Directions
from neuroscope.directions.finding import Separation
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.viz.tables import as_text
from neuroscope.vocabulary.sites import Point

MODEL = pb.CircuitModel(model_id="tiny", layer_count=2, head_count=4, key_value_head_count=2, d_model=8)
GRAPH = ComponentGraph.from_model(MODEL)


def scores(seed=0):
    return np.where(GRAPH.mask, np.random.default_rng(seed).normal(size=GRAPH.mask.shape), np.nan)


def test_the_graph_of_a_model_counts_edges_as_the_reference_does():
    plain = ComponentGraph.from_model(pb.CircuitModel(layer_count=12, head_count=12))
    assert plain.edge_count == 32_491  # GPT-2 small, Syed et al. 2023
    assert len(plain.senders) == 1 + 12 * 13


def test_keys_and_values_are_read_by_every_head_of_their_group():
    assert GRAPH.readers("a1.h1<k>") == ["a1.h2", "a1.h3"]
    assert GRAPH.readers("a1.h1<q>") == ["a1.h1"]
    assert GRAPH.readers("m0") == ["m0"]


def test_a_parallel_layer_has_no_edge_from_its_heads_to_its_mlp():
    model = pb.CircuitModel(layer_count=1, head_count=1, is_parallel=True)
    graph = ComponentGraph.from_model(model)
    assert ("a0.h0", "m0") not in graph.edge_pairs(graph.mask)
    assert ("a0.h0", "logits") in graph.edge_pairs(graph.mask)


def test_what_leads_nowhere_is_pruned():
    kept = [("input", "a0.h1<v>"), ("a0.h2", "a1.h1<k>"), ("a1.h3", "logits")]
    dead = [("a0.h1", "logits"), ("input", "a1.h0<q>"), ("m0", "a1.h0<v>")]
    live = GRAPH.pruned(GRAPH.mask_of([*kept, *dead]))
    assert sorted(GRAPH.edge_pairs(live)) == sorted(kept)  # the head that reads the key is not the one that writes it


def test_the_strongest_edges_are_those_of_the_largest_magnitude():
    values = scores()
    chosen = GRAPH.strongest(values, 10)
    assert chosen.sum() == 10
    assert np.abs(values[chosen]).min() >= np.nanmax(np.abs(values[~chosen]))


def test_a_circuit_survives_a_file(tmp_path):
    values = scores()
    circuit = Circuit.from_mask(GRAPH, GRAPH.strongest(values, 20), model=MODEL, name="some", edge_scores=values)
    circuit.save(tmp_path / "some.json")
    again = Circuit.load(tmp_path / "some.json")
    assert again == circuit
    assert len(again.edges) == 20
    assert np.array_equal(again.in_circuit, circuit.in_circuit)
    np.testing.assert_array_equal(again.edge_scores.values, values.astype(np.float32))


def test_pruning_to_a_size_gives_a_circuit_of_the_same_graph():
    values = scores()
    circuit = Circuit.from_mask(GRAPH, GRAPH.mask, model=MODEL, edge_scores=values)
    small = circuit.strongest(size=0.2, prune=False)
    assert len(small.edges) == round(0.2 * GRAPH.edge_count)
    assert set(small.edges) <= set(circuit.edges)
    assert circuit.strongest(threshold=1.0, prune=False).edges.keys() == {
        name for name, edge in circuit.edges.items() if abs(edge.score) >= 1.0
    }
    pruned = circuit.strongest(size=0.2)
    assert np.array_equal(pruned.in_circuit, GRAPH.pruned(small.in_circuit))


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
    circuit = Circuit.from_mask(GRAPH, GRAPH.mask, model=MODEL, edge_scores=scores())
    with pytest.raises(InvalidRequestError) as refused:
        circuit.strongest(**extent)
    assert refused.value.field == field


def test_an_edge_that_the_graph_does_not_have_is_refused_with_the_nearest():
    circuit = Circuit.from_mask(GRAPH, GRAPH.mask, model=MODEL)
    with pytest.raises(InvalidRequestError, match=r"nearest: a1\.h3<q>"):
        circuit.with_edges(["input->a1.h9<q>"])
    with pytest.raises(InvalidRequestError, match=r"m1 does not reach a0\.h0<q>"):
        circuit.with_edges(["m1->a0.h0<q>"])


def test_networkx_has_the_nodes_and_an_edge_for_each_reader():
    circuit = Circuit.from_mask(GRAPH, GRAPH.mask_of([("input", "a1.h1<k>"), ("a1.h3", "logits")]), model=MODEL)
    graph = circuit.to_networkx()
    assert list(graph.nodes) == ["input", "a1.h3", "logits"]
    assert set(graph.edges(keys=True)) == {("input", "a1.h3", "k"), ("a1.h3", "logits", "")}


def some(seed=0, count=60, **kept):
    values = scores(seed)
    return Circuit.from_mask(
        GRAPH, GRAPH.pruned(GRAPH.strongest(values, count)), model=MODEL, edge_scores=values, **kept
    )


def evaluated():
    return some(
        name='a "circuit" <b>',
        provenance=pb.CircuitProvenance(
            source="discovery",
            search=pb.CircuitSearch(method=pb.CIRCUIT_METHOD_EAP_IG, steps=5, size=0.2),
            dataset=pb.CircuitDataset(name="ioi", seed=1, pair_count=8),
            created_at_ms=1_700_000_000_000,
            versions={"neuroscope": "0.1.0"},
        ),
        evaluation=pb.CircuitEvaluation(
            clean=2.0,
            corrupted=-2.0,
            circuit=1.8,
            faithfulness=0.95,
            completeness=0.9,
            curve=[pb.FaithfulnessPoint(size=size, edge_count=3, faithfulness=size**0.1) for size in (0.01, 0.1, 1)],
            cpr=0.8,
            cmd=0.2,
        ),
    )


@pytest.mark.parametrize("name", ["json", "graphml"])
def test_our_formats_lose_nothing(name, tmp_path):
    circuit = evaluated()
    head = next(node for name, node in circuit.nodes.items() if name.startswith("a"))
    head.label = "name mover"
    head.metadata["confirmed"] = "yes & no"
    circuit.save(tmp_path / f"circuit.{name}")
    assert Circuit.load(tmp_path / f"circuit.{name}") == circuit
    assert Circuit.from_text(circuit.to_text(name)) == circuit


def test_mib_s_layout_keeps_edges_scores_and_shared_keys():
    circuit = evaluated()
    value = json.loads(circuit.to_text("mib"))
    assert value["cfg"] == {
        "n_layers": 2,
        "n_heads": 4,
        "parallel_attn_mlp": False,
        "d_model": 8,
        "n_key_value_heads": 2,
    }
    reference = ComponentGraph.from_model(pb.CircuitModel(layer_count=2, head_count=4))
    assert set(value["edges"]) == {f"{a}->{b}" for a, b in reference.edge_pairs(reference.mask)}
    assert set(value["nodes"]) == set(reference.nodes)
    assert value["edges"]["input->a1.h2<k>"] == value["edges"]["input->a1.h3<k>"]
    again = Circuit.from_json(value)
    assert again.edges.keys() == circuit.edges.keys()
    assert again.nodes.keys() == circuit.nodes.keys()
    np.testing.assert_array_equal(again.edge_scores.values, circuit.edge_scores.values)


def test_a_file_of_the_eap_ig_reference_is_read():
    value = {
        "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 4},
        "nodes": {"input": {"in_graph": True}, "a0.h0": {"in_graph": True}, "logits": {"in_graph": True}},
        "edges": {
            "input->a0.h0<v>": {"score": 0.5, "in_graph": True},
            "a0.h0->logits": {"score": -0.25, "in_graph": True},
            "input->m0": {"score": 0.0, "in_graph": False},
        },
    }
    circuit = Circuit.from_json(value)
    assert list(circuit.edges) == ["input->a0.h0<v>", "a0.h0->logits"]
    assert circuit.edges["a0.h0->logits"].score == -0.25
    assert circuit.message.edge_count == 8
    with pytest.raises(InvalidRequestError, match="no edge 'm0->a0"):
        Circuit.from_json(value | {"edges": {"m0->a0.h0<q>": {"score": 0, "in_graph": True}}})


def test_chuk_lazarus_layout_has_its_fields_and_types_and_comes_back():
    circuit = evaluated()
    value = json.loads(circuit.to_text("lazarus"))
    assert set(value) == {"name", "description", "metadata", "nodes", "edges"}
    assert {frozenset(node) for node in value["nodes"]} == {
        frozenset({"id", "label", "type", "layer", "importance", "metadata"})
    }
    assert {frozenset(edge) for edge in value["edges"]} == {
        frozenset({"source", "target", "type", "weight", "label", "metadata"})
    }
    assert {node["type"] for node in value["nodes"]} == {"input", "attention", "mlp", "output"}
    assert {edge["type"] for edge in value["edges"]} == {"residual", "attention_out", "mlp_out"}
    ids = {node["id"] for node in value["nodes"]}
    assert all(edge["source"] in ids and edge["target"] in ids for edge in value["edges"])
    again = Circuit.from_json(value)
    assert again.edges.keys() == circuit.edges.keys()
    assert again.nodes.keys() == circuit.nodes.keys()
    assert again.evaluation == circuit.evaluation


def test_graph_languages_name_every_node_and_edge():
    circuit = evaluated()
    dot, mermaid = circuit.to_text("dot"), circuit.to_text("mermaid")
    drawn = sum(len(set(circuit.readers(edge.receiver)) & set(circuit.nodes)) for edge in circuit.edges.values())
    assert dot.count(" -> ") == mermaid.count("-->") + mermaid.count("==>") == drawn
    for name in circuit.nodes:
        assert f'"{name}" [shape=' in dot
        assert name.replace(".", "_") in mermaid
    assert dot.startswith('digraph "a \\"circuit\\" <b>" {')
    assert mermaid.startswith("flowchart BT\n")


def test_the_page_needs_nothing_else_and_escapes_what_it_shows():
    circuit = evaluated()
    circuit.message.name = "</script><b>"
    page = circuit.to_text("html")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("</script>") == 2
    (data,) = map(json.loads, re.findall(r"<script type='application/json'>(.*?)</script>", page, re.DOTALL))
    assert [node["name"] for node in data["nodes"]] == list(circuit.all_nodes)
    assert {node["name"] for node in data["nodes"] if node["kept"]} == set(circuit.nodes)
    names, edges = [node["name"] for node in data["nodes"]], data["edges"]
    drawn = {
        (names[sender], names[reader], slot, kept)
        for sender, to, slot, kept in zip(edges["from"], edges["to"], edges["slot"], edges["kept"], strict=True)
        for reader in (to if isinstance(to, list) else [to])
    }
    assert drawn == {
        (edge.sender, reader, edge.receiver[-2] if edge.receiver.endswith(">") else "-", "01"[edge.in_circuit])
        for edge in circuit.all_edges.values()
        for reader in circuit.readers(edge.receiver)
        if reader in circuit.nodes or not edge.in_circuit
    }
    assert len(edges["from"]) == len(circuit.all_edges)
    magnitudes = np.abs([score or 0 for score in edges["score"]])
    assert (np.diff(magnitudes) <= 0).all()
    assert data["facts"]["faithfulness"] == 0.95
    assert circuit._repr_mimebundle_()["text/html"] in page


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "html"])
def test_pictures_are_written(ending, tmp_path):
    path = tmp_path / f"circuit.{ending}"
    evaluated().save(path)
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype"}
    assert path.read_bytes().startswith(begins[ending])


def test_a_picture_shows_every_node_and_edge_and_the_curve():
    circuit = evaluated()
    graph, curve = circuit.plot().axes
    layers = {str(node.layer) for node in circuit.nodes.values() if node.HasField("layer")}
    assert {text.get_text() for text in graph.texts} == set(circuit.nodes) | layers
    drawn = sum(len(set(circuit.readers(edge.receiver)) & set(circuit.nodes)) for edge in circuit.edges.values())
    assert len(graph.patches) == drawn
    np.testing.assert_allclose(curve.lines[0].get_xdata(), [0.01, 0.1, 1])
    assert curve.get_title() == "CPR 0.800, CMD 0.200"


def test_a_picture_of_many_edges_shows_the_strongest_and_says_so():
    circuit = evaluated()
    strongest = sorted(circuit.edges.values(), key=lambda edge: -abs(edge.score))[:3]
    figure = circuit.plot(edges=3)
    drawn = sum(len(set(circuit.readers(edge.receiver)) & set(circuit.nodes)) for edge in strongest)
    assert len(figure.axes[0].patches) == drawn
    assert "the 3 strongest edges are shown" in figure.get_suptitle().replace("\n", " ")
    assert figure.get_figwidth() == 7
    with pytest.raises(InvalidRequestError) as caught:
        circuit.plot(edges=0)
    assert caught.value.field == "edges"


def test_text_of_a_picture_is_text():
    assert b">logits</text>" in evaluated().to_bytes("svg")


def test_two_circuits_beside_each_other():
    first, second = some(0, name="one"), some(1, name="two")
    found = first.compare(second)
    ours, theirs = set(first.edges), set(second.edges)
    assert found.edge_jaccard == len(ours & theirs) / len(ours | theirs)
    assert set(found.only_first) == ours - theirs
    assert set(found.only_second) == theirs - ours
    a, b = (each.edge_scores.values[GRAPH.mask] for each in (first, second))
    assert found.pearson == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(a, b)[0], abs=1e-9)
    same = first.compare(first)
    assert (same.edge_jaccard, same.node_jaccard, same.only_first) == (1.0, 1.0, [])
    assert same.pearson == pytest.approx(1.0)
    assert found.to_json()["first"] == "one"
    graph, scatter = found.plot().axes
    assert sum(len(line.get_xdata()) for line in scatter.lines) == GRAPH.edge_count
    assert len(graph.patches) >= len(ours | theirs)
    assert "Jaccard" in as_text(found.table())


def test_equal_values_share_a_rank():
    values = [3.0, 1.0, 3.0, 2.0]
    assert ranks(values) == (scipy.stats.rankdata(values) - 1).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "readable are json"),
        ("[]", "this is no circuit"),
        ('{"format": "neuroscope.v1.Circuit", "edgs": []}', "edgs"),
        ('{"cfg": {}, "nodes": {}, "edges": {}}', "MIB's layout"),
        ('{"nodes": [{}], "edges": []}', "chuk-lazarus"),
        ("<html>", "GraphML"),
        (
            '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="directed">'
            '<node id="x"/></graph></graphml>',
            "'x' is no name of a node",
        ),
    ],
)
def test_what_is_no_circuit_is_refused(text, message, tmp_path):
    with pytest.raises(InvalidRequestError, match=message):
        Circuit.from_text(text)
    (tmp_path / "file").write_text(text)
    with pytest.raises(InvalidRequestError, match=message) as refused:
        Circuit.load(tmp_path / "file")
    assert str(tmp_path) in refused.value.message


def test_a_format_that_there_is_not_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(InvalidRequestError, match="nearest: mermaid"):
        some().to_text("mermiad")
    with pytest.raises(InvalidRequestError, match="none of the endings"):
        some().save(tmp_path / "circuit.xyz")
    with pytest.raises(InvalidRequestError, match="is a picture"):
        some().to_text("png")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        Circuit.load(tmp_path / "nowhere.json")


def test_the_table_shows_the_facts():
    text = as_text(evaluated().table())
    for shown in ("faithfulness", "0.95", "eap-ig", "8 pairs of ioi", "CPR"):
        assert shown in text


def test_directions_make_a_chain():
    found = {
        f"resid_post.{layer}": Direction(
            Point("resid_post", layer), np.array([1.0, layer], np.float32), Separation(9, 10)
        )
        for layer in (0, 1)
    }
    circuit = Circuit.from_directions(Directions(found, {"model_id": "tiny", "method": "mean_difference"}))
    assert list(circuit.nodes) == ["input", "d.resid_post.0", "d.resid_post.1", "logits"]
    assert circuit.edges["d.resid_post.0->d.resid_post.1"].score == pytest.approx(1 / np.sqrt(2))
    assert circuit.node_scores["d.resid_post.1"] == 0.9
    assert Circuit.from_text(circuit.to_text("graphml")) == circuit
    assert {node["type"] for node in json.loads(circuit.to_text("lazarus"))["nodes"]} == {
        "input",
        "direction",
        "output",
    }
    assert len(circuit.plot().axes[0].patches) == 3


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda value: value["nodes"].append(value["nodes"][0]), "circuit.nodes"),
        (lambda value: value["edges"].append({"sender": "m7", "receiver": "logits"}), r"circuit.edges"),
        (lambda value: value["edges"].append({"sender": "m1", "receiver": "a0.h0<q>"}), r"circuit.edges"),
        (lambda value: value["edges"][0].update(score="NaN"), "circuit.edges[0].score"),
        (lambda value: value["nodes"].append({"name": "a0.h999999999"}), "circuit"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(spoil, field):
    value = json.loads(evaluated().to_text("json"))
    spoil(value)
    with pytest.raises(InvalidRequestError) as refused:
        Circuit.from_json(value).to_text("dot")
    assert refused.value.field.startswith(field)


def test_kinds_that_are_not_known_are_layers():
    strange = Circuit.from_json({"nodes": [{"id": "x", "type": "expert"}], "edges": []})
    assert json.loads(strange.to_text("lazarus"))["nodes"][0]["type"] == "layer"
    for format in ("dot", "mermaid", "html", "svg"):
        assert strange.to_bytes(format)


def test_circuits_of_two_checkpoints_are_compared_with_a_warning():
    """Those of two graphs are not; nothing is said of weights that are not known."""

    def on(weights_hash: str = "", layer_count: int = 2) -> Circuit:
        message = pb.Circuit()
        message.CopyFrom(some(0).message)
        message.model.MergeFrom(pb.CircuitModel(weights_hash=weights_hash, layer_count=layer_count))
        return Circuit(message)

    first, second = on(weights_hash="a" * 32), on(weights_hash="b" * 32)
    assert first.compare(some(0)).warnings == first.compare(on(weights_hash="a" * 32)).warnings == []
    with pytest.warns(UserWarning, match="tiny with weights aaaaaaaa, and not tiny with weights bbbbbbbb"):
        found = first.compare(second)
    assert found.to_json()["warnings"] == found.warnings
    assert "two checkpoints" in as_text(found.table())
    assert "a" * 32 in as_text(first.table())
    with pytest.raises(InvalidRequestError, match="2 layers, not 3"):
        first.compare(on(layer_count=3))
