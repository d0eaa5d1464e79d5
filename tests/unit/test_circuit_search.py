"""What the search for circuits decides, on runs that are functions: ACDC's order and guesses, when an effect counts.

python -m pytest tests/unit/test_circuit_search.py
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2, inference_pb2
from neuroscope_analysis.circuits.acdc import Acdc
from neuroscope_analysis.circuits.effect_test import run_difference, share_prompts
from neuroscope_analysis.circuits.evaluator import faithfulness, standard_error, trapezoid_area
from neuroscope_analysis.circuits.event_queue import EventQueue
from neuroscope_analysis.circuits.hypothesis_tests import equivalence_p_value, independence_p_value
from neuroscope_analysis.circuits.pair_runs import PairRuns
from neuroscope_analysis.circuits.ranking import Ranking
from neuroscope_analysis.circuits.scoring import Scores
from neuroscope_analysis.circuits.size_search import SizeSearch
from neuroscope_analysis.circuits.stability import measure_stability

GRAPH = ComponentGraph.from_model(pb.CircuitModel(layer_count=3, head_count=4, key_value_head_count=2))
Measure = Callable[[Mask], float]


class Runs:
    """Runs whose metric is a function of the changed edges."""

    def __init__(self, measure: Measure, clean: Sequence[float] = (0.0,), corrupted: Sequence[float] = (1.0,)) -> None:
        self.clean, self.corrupted = np.array(clean), np.array(corrupted)
        self.metric_gap = float((self.clean - self.corrupted).mean())
        self.sweeps: list[int] = []
        self._measure = measure

    async def patch_edges(self, sets: Sequence[Mask] | NDArray[np.bool_], stage: str) -> NDArray[np.float64]:
        self.sweeps.append(len(sets))
        return np.array([[self._measure(changed) for changed in sets]] * len(self.clean))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


class Silent(EventQueue):
    """Nobody listens."""

    def __init__(self) -> None:
        super().__init__(pb.DiscoverCircuitResponse)
        self.sent: list[Any] = []

    async def send(self, event: Any) -> None:
        self.sent.append(event)


def one_by_one(measure: Measure, threshold: float, *, may_fall: bool) -> Mask:
    """ACDC as its paper has it: a test at a time."""
    kept, current = GRAPH.mask.copy(), measure(np.zeros_like(GRAPH.mask))
    for column in reversed(range(len(GRAPH.receivers))):
        nodes = [GRAPH.rows[node] for node in GRAPH.readers(GRAPH.receivers[column]) if node in GRAPH.rows]
        is_logits = GRAPH.receivers[column] == "logits"
        for row in reversed(range(GRAPH.sender_counts[column])):
            kept[row, column] = False
            if not is_logits and not any(kept[node].any() for node in nodes):
                continue
            value = measure(GRAPH.mask & ~kept)
            change = value - current
            if change < threshold if may_fall else abs(change) < threshold:
                current = value
            else:
                kept[row, column] = True
    return kept


def measures(seed: int) -> Measure:
    """Effects of edges, most of them small, some negative; pairs of edges stand in for each other."""
    random = np.random.default_rng(seed)
    weights = random.exponential(0.02, GRAPH.mask.shape) * random.choice([-1, 1], GRAPH.mask.shape)
    weights[random.random(GRAPH.mask.shape) < 0.03] = 0.4
    weights[-3:, -1] = 0.4
    edges = np.argwhere(GRAPH.mask)
    spares = [tuple(edges[random.choice(len(edges), 2, replace=False)].T) for _ in range(6)]

    def measure(changed: Mask) -> float:
        return float((weights * changed).sum() + 0.3 * sum(changed[spare].all() for spare in spares))

    return measure


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("may_fall", [True, False], ids=["divergence", "any metric"])
def test_guesses_do_not_change_what_acdc_decides(seed: int, may_fall: bool) -> None:
    measure, events = measures(seed), Silent()
    runs = Runs(measure)
    acdc = Acdc(GRAPH, cast("PairRuns", runs), 0.05, events, may_fall=may_fall)
    asyncio.run(acdc.run())
    expected = one_by_one(measure, 0.05, may_fall=may_fall)
    np.testing.assert_array_equal(acdc.kept, expected)
    assert 0 < expected.sum() < GRAPH.edge_count
    tests = int(np.isfinite(acdc.scores).sum())
    assert len(runs.sweeps) < tests * 0.7, "tests run together"
    edges = [edge for event in events.sent for edge in event.partial.edges.edges]
    assert len(edges) == tests
    assert {(edge.sender, edge.receiver) for edge in edges if edge.in_circuit} <= set(GRAPH.edge_pairs(expected))


def test_where_nothing_matters_nothing_is_kept_and_little_is_tested() -> None:
    runs = Runs(lambda changed: 0.0)
    acdc = Acdc(GRAPH, cast("PairRuns", runs), 0.05, Silent(), may_fall=True)
    asyncio.run(acdc.run())
    assert not acdc.kept.any()
    assert sum(runs.sweeps) == len(GRAPH.senders), "edges to the logits alone: behind them nothing is read"


def test_the_smallest_faithful_circuit() -> None:
    """Its size is at most 5 % above the smallest one, found with few measured sizes, all of which are points."""
    random = np.random.default_rng(2)
    scores = np.where(GRAPH.mask, random.exponential(1, GRAPH.mask.shape), np.nan)
    total = np.nansum(scores)
    runs, events = Runs(lambda changed: float(np.nansum(scores * changed)) / total), Silent()
    ranking = Ranking(GRAPH, Scores(edges=scores), of_nodes=False, keeps_dangling=True)
    found = asyncio.run(SizeSearch(ranking, 0.9, cast("PairRuns", runs), events).run())
    strengths = np.sort(scores[GRAPH.mask])[::-1].cumsum() / total
    smallest = int(np.argmax(strengths >= 0.9)) + 1
    assert smallest <= found.circuit.sum() <= 1.05 * smallest
    assert found.extent.count == found.circuit.sum()
    assert found.known is not None
    counts = [point.edge_count for point in found.known.points]
    assert counts == sorted(counts)
    assert len(runs.sweeps) <= len(counts) <= 14
    for point in found.known.points:
        assert point.faithfulness == pytest.approx(strengths[point.edge_count - 1])
    assert len(events.sent) == len(counts)


def test_a_search_of_the_size_ends_at_the_whole_graph_without_running_it() -> None:
    scores = np.where(GRAPH.mask, 1.0, np.nan)
    runs = Runs(lambda changed: float(changed.any()))
    ranking = Ranking(GRAPH, Scores(edges=scores), of_nodes=False, keeps_dangling=True)
    found = asyncio.run(SizeSearch(ranking, 0.9, cast("PairRuns", runs), Silent()).run())
    assert found.circuit.sum() == GRAPH.edge_count


def test_stable_edges_are_in_every_resample_and_noisy_ones_are_not() -> None:
    random = np.random.default_rng(3)
    edges = np.argwhere(GRAPH.mask)
    strong, noisy = edges[:5], edges[5:10]
    by_pair = np.where(GRAPH.mask, 0.0, np.nan)[None].repeat(32, axis=0)
    by_pair[:, strong[:, 0], strong[:, 1]] = 3.0
    by_pair[:, noisy[:, 0], noisy[:, 1]] = random.normal(0.1, 1.0, (32, 5))
    scores = Scores.mean(by_pair)
    ranking = Ranking(GRAPH, scores, of_nodes=False, keeps_dangling=True)
    sure = measure_stability(ranking, Extent(count=5), ranking.strongest(Extent(count=5)), 50)
    assert sure.message.jaccard == sure.message.jaccard_low == 1.0
    assert (sure.inclusion[strong[:, 0], strong[:, 1]] == 1).all()
    assert sure.inclusion.sum() == 5
    extent = Extent(count=8)
    doubtful = measure_stability(ranking, extent, ranking.strongest(extent), 50)
    assert doubtful.message.jaccard_low < doubtful.message.jaccard < 1
    assert 0 < doubtful.inclusion[noisy[:, 0], noisy[:, 1]].min() < 1
    assert doubtful.message.resample_count == 50


@pytest.mark.parametrize(
    ("changes", "test", "said"),
    [
        ([3.0, 3.1, 2.9, 3.0], {}, ""),
        ([-3.0, -3.1, -2.9, -3.0], {}, ""),
        ([3.0, -2.0, 4.0, 1.0], {}, "over 4 pairs noise explains"),
        ([3.0, 3.1, 2.9, 3.0], {"least_effect": 3.5}, "the minimum effect of 3.5"),
        ([1e-6, 1e-6, 1e-6, 1e-6], {}, "the minimum effect of 0.0005"),
        ([0.0], {}, "between clean and corrupted runs is 0,"),
        ([2.0], {}, ""),
        ([3.0, -2.0, 4.0, 1.0], {"skip": True}, ""),
        ([3.0, 2.0, 4.0, 1.0], {"significance": 0.05}, ""),
        ([3.0, 2.0, 4.0, 1.0], {"significance": 0.001}, "at a significance of 0.001"),
    ],
)
def test_when_an_effect_counts(changes: list[float], test: dict[str, Any], said: str) -> None:
    corrupted = np.full(len(changes), 5.0)
    test = {"significance": 0.001, **test}
    why = run_difference(corrupted + changes, corrupted, pb.EffectTest(**test)).why_no_effect
    assert said in why
    assert bool(why) == bool(said)


def test_noise_passes_no_oftener_than_it_says() -> None:
    """Of 2000 searches on noise alone; 99 of 100 such counts lie below the bound."""
    random = np.random.default_rng(0)
    corrupted, test = np.zeros(8), pb.EffectTest(significance=0.05)
    found = sum(not run_difference(random.normal(size=8), corrupted, test).why_no_effect for _ in range(2000))
    assert 60 < found < 123


def test_pairs_of_few_prompts_are_worth_few() -> None:
    """On noise of prompts, 56 pairs of 8 prompts pass no oftener than it says; taken as independent ones they would."""
    random = np.random.default_rng(0)
    numbers = [(one, other) for one in range(8) for other in range(8) if one != other]
    ids = [pair_tokens(*each) for each in numbers]
    shared, test = share_prompts(ids), pb.EffectTest(significance=0.05)
    alone = taken = 0
    for _ in range(500):
        logits = random.normal(size=(8, 8))  # of each prompt, by answer
        clean = np.array([logits[one, one] - logits[one, other] for one, other in numbers])
        corrupted = np.array([logits[other, one] - logits[other, other] for one, other in numbers])
        taken += not run_difference(clean, corrupted, test, shared).why_no_effect
        alone += not run_difference(clean, corrupted, test).why_no_effect
    assert taken <= 35
    assert alone > 100


def test_pairs_share_what_is_clean_in_one_of_them() -> None:
    chain = share_prompts([pair_tokens(1, 2), pair_tokens(2, 3), pair_tokens(4, 5)])
    np.testing.assert_array_equal(chain, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(share_prompts([pair_tokens(each, 0) for each in (1, 2, 3)]), np.eye(3))
    changes, corrupted = np.array([3.0, 2.0, 4.0]), np.zeros(3)
    test = pb.EffectTest(significance=0.05)
    assert not run_difference(changes, corrupted, test).why_no_effect
    why = run_difference(changes, corrupted, test, chain).why_no_effect
    assert "over 3 pairs, worth 1.8 that share no prompt, noise explains" in why


def pair_tokens(clean: int, corrupted: int) -> experiment_pb2.PairTokens:
    ids = [inference_pb2.TokenIds(ids=[each]) for each in (clean, corrupted)]
    return experiment_pb2.PairTokens(clean=ids[0], corrupted=ids[1])


def test_a_circuit_that_is_always_below_the_model_is_not_equivalent() -> None:
    random = np.random.default_rng(4)
    model = random.normal(5, 1, 16)
    assert equivalence_p_value(model - 0.5, model) == pytest.approx(2 * 0.5**16)
    assert equivalence_p_value(model, model) == 1.0
    mixed = [equivalence_p_value(model + random.normal(0, 1, 16), model) for _ in range(200)]
    assert np.mean(np.array(mixed) < 0.05) <= 0.05


def test_dependence_on_the_model_is_seen_and_noise_is_not() -> None:
    random = np.random.default_rng(5)
    model = random.normal(5, 1, 32)
    assert independence_p_value(np.abs(model - 5), model) == 0.001, "not linear"
    assert independence_p_value(np.zeros(32), model) == 1.0
    noise = np.array([independence_p_value(random.normal(0, 1, 16), random.normal(0, 1, 16)) for _ in range(100)])
    assert np.mean(noise < 0.05) <= 0.12, "99 of 100 such counts lie below the bound"


def test_faithfulness_and_its_error() -> None:
    random = np.random.default_rng(1)
    clean, corrupted = 5 + random.normal(size=400), random.normal(size=400)
    values = corrupted + 0.8 * (clean - corrupted) + 0.1 * random.normal(size=400)
    runs = cast("PairRuns", Runs(lambda changed: 0.0, clean.tolist(), corrupted.tolist()))
    assert faithfulness(runs, values) == pytest.approx(0.8, abs=0.01)
    draws = [random.choice(400, 400) for _ in range(500)]
    resampled = [(values - corrupted)[draw].mean() / (clean - corrupted)[draw].mean() for draw in draws]
    assert standard_error(runs, values) == pytest.approx(np.std(resampled), rel=0.15)


def test_areas_are_those_of_trapezoids() -> None:
    assert trapezoid_area([0.0, 0.5, 1.0], [0.0, 1.0, 1.0]) == 0.75
    assert trapezoid_area([0.2, 1.0], [1.0, 1.0]) == pytest.approx(0.8)
