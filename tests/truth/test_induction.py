"""EAP, EAP-IG and attribution patching against the planted induction circuit, whose edges are known.

The truth is exact edge patching in an independent float64 forward pass: what a receiver reads of one sender is replaced
by what that sender writes in the corrupted run, everything behind is computed again.

python -m pytest tests/truth/test_induction.py
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope_inference.engine.model import LoadedModel
from tests.support.attributing import attribute_here, labels
from tests.support.loaded import load_here
from tests.support.numpy_paths import Node, Paths
from tests.support.sweeping import one_by_one, prompt, sweep_here
from tests.truth.induction.model import CIRCUIT, build
from tests.truth.induction.prompts import Asked, asked

PAIRS = 8
Edge = tuple[Node, Node]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("truth") / "induction")


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_here(folder)


@pytest.fixture(scope="module")
def exact(folder: Path) -> dict[Edge, float]:
    """By edge, the share of the metric's change that patching it alone brings about, the mean over all pairs."""
    found: dict[Edge, float] = {}
    for pair in asked(PAIRS):
        paths = Paths(folder, pair.clean)
        clean, corrupted = paths.run(), Paths(folder, pair.corrupted).run()
        base, end = metric(clean.logits, pair), metric(corrupted.logits, pair)
        assert base > 5 > -5 > end
        assert clean.logits[-1].argmax() == pair.answer
        for sender, receiver in clean.edges():
            change = corrupted.written[sender] - clean.written[sender]
            patched = metric(paths.run({receiver: change}).logits, pair)
            found[sender, receiver] = found.get((sender, receiver), 0.0) + (patched - base) / (base - end) / PAIRS
    return found


def metric(logits: NDArray[np.float64], pair: Asked) -> float:
    return float(logits[-1, pair.answer] - logits[-1, pair.other])


def request(**method: object) -> pb.AttributeRequest:
    pairs = asked(PAIRS)
    answers, others = ([pb.TokenChoice(id=getattr(pair, name)) for pair in pairs] for name in ("answer", "other"))
    return pb.AttributeRequest(
        pairs=[pb.PromptPair(clean=prompt(pair.clean), corrupted=prompt(pair.corrupted)) for pair in pairs],
        metric=pb.Metric(logit_difference=pb.LogitDifference(answers=answers, others=others), normalised=True),
        **method,  # type: ignore[arg-type]
    )


def edge_scores(model: LoadedModel, steps: int) -> dict[Edge, float]:
    found = attribute_here(model, request(edges=pb.EdgeAttribution(steps=steps)))
    senders, receivers = labels(found.plan.senders), labels(found.plan.receivers)
    counts = [receiver.sender_count for receiver in found.plan.receivers]
    return {
        (sender, receiver): float(found[0][row, column])
        for column, receiver in enumerate(receivers)
        for row, sender in enumerate(senders[: counts[column]])
    }


def auroc(scores: dict[Edge, float]) -> float:
    """How often an edge of the circuit has a larger magnitude than one outside."""
    inside = np.abs([score for edge, score in scores.items() if edge in CIRCUIT])
    outside = np.abs([score for edge, score in scores.items() if edge not in CIRCUIT])
    return float((inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean())


def pearson(a: dict[Edge, float], b: dict[Edge, float]) -> float:
    assert a.keys() == b.keys()
    return float(np.corrcoef(list(a.values()), [b[edge] for edge in a])[0, 1])


def test_exact_patching_finds_the_circuit(exact: dict[Edge, float]) -> None:
    assert auroc(exact) == 1.0
    strongest = sorted(exact, key=lambda edge: -abs(exact[edge]))[: len(CIRCUIT)]
    assert set(strongest) == CIRCUIT
    assert max(abs(score) for edge, score in exact.items() if edge not in CIRCUIT) < 0.05
    print({edge: round(exact[edge], 3) for edge in strongest})


def test_eap_ig_is_exact_patching(model: LoadedModel, exact: dict[Edge, float]) -> None:
    """Where attention is saturated a single gradient says that nothing happens; gradients on the way do not."""
    once, five = edge_scores(model, 1), edge_scores(model, 5)
    print("EAP", pearson(once, exact), auroc(once), "EAP-IG(5)", pearson(five, exact), auroc(five))
    assert auroc(five) == 1.0
    assert pearson(five, exact) >= 0.99
    assert pearson(five, exact) > pearson(once, exact)


def test_completeness(model: LoadedModel) -> None:
    found = attribute_here(model, request(inputs=pb.IntegratedGradients(steps=128), each_pair=True))
    for total in found.completeness:
        assert total.attributed == pytest.approx(total.change, abs=0.02)


def test_path_patching_is_exact_patching(model: LoadedModel, exact: dict[Edge, float]) -> None:
    """Of every edge, through the service's own sweep."""
    by_receiver: dict[Node, list[Node]] = {}
    for sender, receiver in exact:
        by_receiver.setdefault(receiver, []).append(sender)
    grids: list[pb.PathGrid] = []
    for (component, layer, head), senders in by_receiver.items():
        side = site_pb2.SIDE_INPUT if component == "mlp_out" else site_pb2.SIDE_UNSPECIFIED
        site = site_pb2.Site(component=component, layer=layer, side=side)
        read = pb.PathReceiver(site=site, heads=[] if head is None else [head])
        sent = [
            pb.PathSender(
                site=site_pb2.Site(component=name, layer=at), heads=None if number is None else one_by_one(number)
            )
            for name, at, number in senders
        ]
        value = pb.SweepValue(other_run=pb.OtherRun())
        grids.append(pb.PathGrid(senders=sent, receivers=[pb.PathReceivers(nodes=[read])], value=value))
    attribution = request()
    sweep = pb.RunSweepRequest(
        pairs=attribution.pairs, metric=attribution.metric, paths=grids, edited_run=pb.SWEPT_RUN_CLEAN
    )
    effects = (sweep_here(model, sweep) - 1).mean(axis=0)  # the clean run has 1
    found = {
        (sender, receiver): float(effect)
        for effect, (receiver, sender) in zip(
            effects, ((receiver, sender) for receiver in by_receiver for sender in by_receiver[receiver]), strict=True
        )
    }
    assert auroc(found) == 1.0
    assert found.keys() == exact.keys()
    np.testing.assert_allclose(list(found.values()), [exact[edge] for edge in found], atol=1e-4)
    assert set(sorted(found, key=lambda edge: found[edge])[: len(CIRCUIT)]) == CIRCUIT
