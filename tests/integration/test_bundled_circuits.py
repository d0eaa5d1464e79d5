"""Circuits of the bundled model: what keeps the named behaviours, and whether two ways of asking after heads agree.

python -m pytest tests/integration/test_bundled_circuits.py
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from neuroscope import Client
from neuroscope import experiments as ex
from neuroscope.analysis import AnalysisClient
from neuroscope.circuits.comparison import ranks
from neuroscope.datasets import NAMED, Dataset
from neuroscope.datasets.fitting import DEFAULT_COUNT
from tests.support.services import Service

MODEL = "neuroscope-tiny"


@pytest.fixture(scope="module")
def client(analysis: Service) -> Iterator[AnalysisClient]:
    with AnalysisClient(analysis.target) as found:
        yield found


@pytest.fixture(scope="module")
def below(inference: Service) -> Iterator[Client]:
    with Client(inference.target) as found:
        yield found


@pytest.mark.parametrize("name", ["copying", "ioi", "facts", "arithmetic"])
def test_a_fifth_of_the_edges_does_what_the_model_does(client: AnalysisClient, name: str) -> None:
    """Found on one half of the pairs, measured on the other; what is outside does nothing."""
    found_on, tried_on = client.dataset(name, count=24, model_id=MODEL).split(2 / 3)
    found = client.discover_circuit(found_on, size=0.2, model_id=MODEL)
    assert found.is_found
    assert len(found.circuit.edges) <= 0.2 * found.circuit.message.edge_count
    tried = client.evaluate_circuit(found.circuit, tried_on, model_id=MODEL).circuit.evaluation
    assert tried is not None
    assert tried.clean > 2
    assert tried.corrupted < -2
    if name in ("copying", "ioi"):
        assert tried.faithfulness >= 0.9
        assert tried.completeness >= 0.9
    # Facts and sums are reported as they are (docs/circuits.md); that a number came out is what is tested.
    assert np.isfinite(tried.faithfulness)


@pytest.mark.parametrize("name", ["copying", "ioi"])
def test_heads_matter_alike_when_patched_and_when_ablated(below: Client, name: str) -> None:
    """Both take away all that a head says of its prompt: another prompt's output, or the mean over prompts."""
    pairs = _of_one_length(below.dataset(name, count=4 * DEFAULT_COUNT, model_id=MODEL))
    few = pairs[:32]
    others = [pairs.clean[(index + 7) % len(pairs)] for index in range(len(few))]
    patched = below.patch(few.clean, others, into="clean", model_id=MODEL).heads().run(metric=few.metric())
    ablation = below.ablate(few.clean, ex.mean(by_position=True), model_id=MODEL).references(pairs.clean[:128])
    ablated = ablation.heads().run(metric=few.metric())
    one, other = (result["head_output"].effects().mean("pair").values.reshape(-1) for result in (patched, ablated))
    spearman = np.corrcoef(ranks(one.tolist()), ranks(other.tolist()))[0, 1]
    assert spearman >= 0.8


def _of_one_length(pairs: Dataset) -> Dataset:
    length, _ = Counter(len(pair.clean_ids) for pair in pairs).most_common(1)[0]
    return Dataset([pair for pair in pairs if len(pair.clean_ids) == length], name=pairs.name)


def test_every_dataset_speaks_the_model_s_language(client: AnalysisClient, below: Client) -> None:
    """Both clients make the same pairs; of known skills the model knows the answers."""
    for name in NAMED:
        pairs = client.dataset(name, count=8, seed=3, model_id=MODEL)
        assert len(pairs) == 8
        assert pairs.content_hash == below.dataset(name, count=8, seed=3, model_id=MODEL).content_hash
        if name in ("copying", "ioi", "facts", "arithmetic"):
            one = below.patch(pairs.clean, pairs.corrupted, model_id=MODEL).heads(layers=0, heads=[0])
            run = one.run(metric=pairs.metric())["head_output"]
            assert np.mean(run.clean > 0) >= 0.75, name
            assert np.mean(run.corrupted < 0) >= 0.75, name
