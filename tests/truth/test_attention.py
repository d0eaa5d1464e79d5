"""Roles of heads against the planted ones, through the real services: every role found, every decoy told apart.

python -m pytest tests/truth/test_attention.py
"""

from collections.abc import Iterator

import numpy as np
import pytest

from neuroscope.analysis import ROLES, AnalysisClient, AttentionResult
from neuroscope.results.labels import role_name
from tests.truth.attention.model import BLOCK, COPYING, DECOYS, DISTANCE, PLANTED, SUPPRESSING, TOKEN_IDS, build
from tests.truth.running import Bench

Heads = set[tuple[int, int]]


@pytest.fixture(scope="module")
def client(services: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalysisClient]:
    folder = build(tmp_path_factory.mktemp("truth") / "attention")
    with services.model(folder):
        yield services.analysis


@pytest.fixture(scope="module")
def found(client: AnalysisClient) -> AttentionResult:
    return client.analyze_attention(token_ids=TOKEN_IDS, block_length=BLOCK, sequences=8, seed=1)


@pytest.fixture(scope="module")
def complete(client: AnalysisClient) -> AttentionResult:
    """Every label tested in every way."""
    return client.analyze_attention(token_ids=TOKEN_IDS, block_length=BLOCK, sequences=8, seed=1, complete=True)


def f1(found: Heads, true: Heads) -> float:
    right = len(found & true)
    return 2 * right / (len(found) + len(true))


def macro_f1(found: AttentionResult, *, confirmed: bool) -> float:
    """Over the roles that patterns tell."""
    return float(np.mean([f1(set(found.heads(role, confirmed=confirmed)), {PLANTED[role]}) for role in PLANTED]))


def test_confirmed_labels_are_the_planted_roles(found: AttentionResult) -> None:
    print({role: found.heads(role) for role in found.roles})
    assert set(found.roles) == {*PLANTED, "copying", "suppression"}
    assert macro_f1(found, confirmed=True) == 1.0
    (positional,) = (label for label in found.labels if label.role == "positional" and label.is_confirmed)
    assert positional.offset == DISTANCE


def test_every_role_is_planted_somewhere() -> None:
    """Here, or in the model of names (test_names.py)."""
    assert set(ROLES) == {*PLANTED, "copying", "suppression", "name_mover", "s_inhibition"}


def test_heads_that_copy_are_known_by_their_weights(found: AttentionResult) -> None:
    """Those that write to JUNK, or always the same, neither copy nor suppress."""
    assert set(found.heads("copying")) == set(found.heads("copying", confirmed=False)) == COPYING
    assert set(found.heads("suppression")) == set(found.heads("suppression", confirmed=False)) == SUPPRESSING
    scores = found["copying_score"]
    for layer, head in np.ndindex(2, 8):
        expected = 1.0 if (layer, head) in COPYING else -1.0 if (layer, head) in SUPPRESSING else 0.0
        assert scores.sel(layer=layer, head=head).values == pytest.approx(expected, abs=1e-3), (layer, head)


def test_a_test_that_ends_early_says_what_the_complete_one_says(
    found: AttentionResult, complete: AttentionResult
) -> None:
    verdicts = [
        {(label.role, label.layer, label.head): label.verdict for label in each.labels} for each in (found, complete)
    ]
    assert verdicts[0] == verdicts[1]
    counts = [[each.sequence_count for label in of.labels for each in label.evidence] for of in (found, complete)]
    assert set(counts[1]) == {8}
    assert len(counts[0]) < len(counts[1])
    assert sum(counts[0]) < 0.6 * sum(counts[1])


def test_decoys_have_the_pattern_and_no_effect(complete: AttentionResult) -> None:
    """A label by the pattern alone takes each decoy for the real thing."""
    found = complete
    by_pattern = [label for label in found.labels if label.role in PLANTED]
    unconfirmed = {(label.role, (label.layer, label.head)) for label in by_pattern if not label.is_confirmed}
    assert unconfirmed == set(DECOYS.items())
    assert macro_f1(found, confirmed=False) == pytest.approx(2 / 3)
    for label in by_pattern:
        effects = [abs(each.effect_nats) for each in label.evidence]
        assert len(effects) == 2
        if label.is_confirmed:
            assert max(effects) > 0.05
        else:
            assert max(effects) < 1e-3  # what norms see of JUNK


def test_scores_are_those_of_the_patterns(found: AttentionResult) -> None:
    """A head has the score of its own role and of no other, and so does its decoy."""
    assert found.plan is not None
    for role in PLANTED:
        scores = found[f"{role}_score"]
        with_pattern = {PLANTED[role], DECOYS[role]}
        (threshold,) = (plan.threshold for plan in found.plan.roles if role_name(plan.role) == role)
        reached = {(layer, head) for (layer, head), score in np.ndenumerate(scores.values) if score >= threshold}
        assert reached == with_pattern, role
        for layer, head in with_pattern:
            assert scores.sel(layer=layer, head=head).values > 0.98, role
