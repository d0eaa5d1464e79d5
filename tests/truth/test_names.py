"""Name movers, S-inhibition heads, interactions and composition against the planted ones, through the real services.

python -m pytest tests/truth/test_names.py
"""

from collections.abc import Iterator

import numpy as np
import pytest

from neuroscope.analysis import AnalysisClient, AttentionResult, InteractionGraph
from tests.truth.measures import edge_scores
from tests.truth.names.model import (
    COMPOSITIONS,
    DECOYS,
    DUPLICATE,
    INTERACTIONS,
    NAME_MOVER,
    S_INHIBITION,
    SWAPPED,
    build,
)
from tests.truth.names.prompts import named_pairs, swapped_pairs
from tests.truth.ranking import auroc
from tests.truth.running import Bench

ROLES = {"name_mover": NAME_MOVER, "s_inhibition": S_INHIBITION}


@pytest.fixture(scope="module")
def client(services: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalysisClient]:
    folder = build(tmp_path_factory.mktemp("truth") / "names")
    with services.model(folder):
        yield services.analysis


@pytest.fixture(scope="module")
def found(client: AnalysisClient) -> AttentionResult:
    return client.analyze_attention(roles=list(ROLES), named_pairs=named_pairs(8))


@pytest.fixture(scope="module")
def graph(client: AnalysisClient) -> InteractionGraph:
    return client.map_interactions(named_pairs(8), every_head=True)


@pytest.mark.parametrize("role", ROLES)
def test_confirmed_labels_are_the_planted_roles_and_decoys_are_told_apart(found: AttentionResult, role: str) -> None:
    print(found.labels)
    assert found.heads(role) == [ROLES[role]]
    assert set(found.heads(role, confirmed=False)) == {ROLES[role], *DECOYS[role]}


def test_scores_are_attention_and_copying(found: AttentionResult) -> None:
    movers = found["name_mover_score"]
    assert movers.sel(layer=2, head=[0, 1]).values.min() > 0.99
    assert movers.sel(layer=2, head=2).values == 0  # it attends as the name mover does, and does not copy
    assert found["s_inhibition_score"].sel(layer=1, head=[0, 1]).values.min() > 0.98
    effects = found["direct_effect"]
    assert effects.sel(layer=2, head=0).values > 5
    others = [value for (layer, head), value in np.ndenumerate(effects.values) if (layer, head) != NAME_MOVER]
    assert max(map(abs, others)) < 1e-2


def test_a_role_that_rests_on_another_is_not_tested_without_it(client: AnalysisClient) -> None:
    """No name mover reaches the threshold, so that there are no queries to patch."""
    few = client.analyze_attention(
        roles=list(ROLES), named_pairs=named_pairs(4), thresholds={"name_mover": 1.0, "s_inhibition": 0.9}
    )
    assert few.heads("name_mover", confirmed=False) == []
    assert {label.verdict for label in few.labels} == {"not tested"}
    assert {label.reason for label in few.labels} == {"no name mover was confirmed whose queries it could be tested on"}


def test_interactions_are_the_planted_paths(graph: InteractionGraph) -> None:
    print([(each.name, each.effect) for each in graph.interactions])
    assert {each.name for each in graph.interactions} == INTERACTIONS
    effects = graph.effects()
    assert auroc({path: abs(effect) for path, effect in effects.items()}, INTERACTIONS) == 1.0
    assert graph.end is not None
    assert graph.end.tested_count == len(effects)
    assert graph.end.screened_count == 0
    drawn = graph.to_networkx()
    assert {(writer, reader, part) for writer, reader, part in drawn.edges(keys=True)} == {
        (DUPLICATE, S_INHIBITION, "k"),
        (DUPLICATE, S_INHIBITION, "v"),
        (S_INHIBITION, NAME_MOVER, "q"),
        (NAME_MOVER, "logits", "logits"),
    }


def test_screening_leaves_out_heads_without_effect_and_finds_the_same(
    client: AnalysisClient, graph: InteractionGraph
) -> None:
    screened = client.map_interactions(named_pairs(8))
    assert screened.end is not None
    assert graph.end is not None
    assert screened.end.screened_count == 9 - 3
    assert screened.end.tested_count < graph.end.tested_count / 3
    for one, other in zip(screened.interactions, graph.interactions, strict=True):
        assert one.name == other.name
        assert one.effect == pytest.approx(other.effect, abs=1e-3)


def test_compositions_are_those_of_shared_subspaces(client: AnalysisClient) -> None:
    found = client.measure_composition()
    top = found.top(len(COMPOSITIONS))
    print(top)
    assert {(kind, writer, reader) for kind, writer, reader, _ in top} == COMPOSITIONS
    least = min(score for *_, score in top)
    for kind in "qkv":
        grid = found[f"{kind}_composition"]
        for place, score in grid.top(10_000):
            pair = (place["writer_layer"], place["writer_head"]), (place["reader_layer"], place["reader_head"])
            assert np.isnan(score) or (kind, *pair) in COMPOSITIONS or score < least / 5, (kind, pair, score)


def test_a_swapped_name_travels_the_planted_edges(client: AnalysisClient) -> None:
    """What each does alone is what the weights say, and no other edge does anything."""
    found = client.discover_circuit(swapped_pairs(8), method="edge-patching", count=len(SWAPPED), evaluate=False)
    signed = found["edge_score"]
    for sender, receiver in edge_scores(found):
        expected = SWAPPED.get((sender, receiver), 0.0)
        score = signed.sel(sender=sender, receiver=receiver).values
        assert score == pytest.approx(expected, abs=0.05), (sender, receiver)
