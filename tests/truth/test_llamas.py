"""Facts and addition mod 11, planted in llamas: what the models do, and that their mechanism is the written one.

python -m pytest tests/truth/test_llamas.py
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from neuroscope import Client
from neuroscope.experiments import logit_diff
from tests.truth.addition import model as addition
from tests.truth.facts import model as facts
from tests.truth.null import permuted


@pytest.fixture(scope="module")
def facts_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client.local(model=[str(facts.build(tmp_path_factory.mktemp("truth") / "facts"))]) as client:
        yield client


@pytest.fixture(scope="module")
def addition_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client.local(model=[str(addition.build(tmp_path_factory.mktemp("truth") / "addition"))]) as client:
        yield client


def test_every_fact_is_recalled_with_the_planted_logit(facts_client: Client) -> None:
    for subject, relation in np.ndindex(facts.SUBJECTS, facts.RELATIONS):
        prompt = facts.prompt(subject, relation, subject)
        logits = facts_client.capture(prompt, ["logits"])["logits"][0, -1]
        object_id = facts.OBJECT_IDS[facts.fact(subject, relation)]
        assert logits.argmax() == object_id
        assert logits[object_id] == pytest.approx(facts.GAIN, abs=1e-3)
        assert np.abs(np.delete(logits, object_id)).max() < 1e-3


def test_the_fact_is_restored_by_the_table_at_the_subject(facts_client: Client) -> None:
    """As causal tracing has it: the MLP and position whose clean output brings the answer back."""
    pair = next(each for each in facts.pairs(2) if each["clean"][1] == each["corrupted"][1])
    swept = facts_client.patch(pair["clean"], pair["corrupted"]).mlps()
    restored = swept.run(metric=logit_diff(pair["answer"], pair["other"]))["mlp_out"].normalised()
    (place, share), (_, next_best) = restored.top(2)
    assert place == {"layer": facts.TABLE_LAYER, "position": facts.SUBJECT_POSITION}
    assert share == pytest.approx(1, abs=1e-3)
    assert abs(next_best) < 1e-3


def test_every_sum_is_right_and_its_logits_are_the_cosines(addition_client: Client) -> None:
    features = addition.features()
    for first, second in np.ndindex(addition.MODULUS, addition.MODULUS):
        logits = addition_client.capture(addition.prompt(first, second), ["logits"])["logits"][0, -1]
        total = (first + second) % addition.MODULUS
        assert logits.argmax() == addition.FIRST_IDS[total]
        expected = addition.GAIN * features @ features[total]
        np.testing.assert_allclose(logits[addition.FIRST_IDS], expected, atol=5e-3)


def test_null_models_have_the_same_entries_in_other_places(tmp_path: Path) -> None:
    folder = facts.build(tmp_path / "facts")
    weights = load_file(folder / "model.safetensors")
    folders = [permuted(folder, tmp_path / str(place), seed) for place, seed in enumerate((1, 1, 2))]
    one, again, other = (load_file(each / "model.safetensors") for each in folders)
    for name, array in weights.items():
        np.testing.assert_array_equal(np.sort(one[name], axis=None), np.sort(array, axis=None))
        np.testing.assert_array_equal(one[name], again[name])
    table = "model.layers.1.mlp.down_proj.weight"
    assert not np.array_equal(one[table], weights[table])
    assert not np.array_equal(one[table], other[table])
