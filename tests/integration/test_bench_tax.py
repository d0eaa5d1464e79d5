"""tests.bench.tax and tests.bench.concurrency run: mlx-lm and a service for each case, in turns."""

from pathlib import Path

import pytest

from tests.bench import concurrency, tax
from tests.bench.intervals import interval


def test_a_short_run_of_every_kind_of_case(llama_dir: Path, tmp_path: Path):
    """Nothing captured, every point by its name, and over REST."""
    cases = [case for case in tax.CASES if not case.hooks or case.hooks == tax.EVERY or case.over_rest]
    assert len(cases) == 3
    results = tax.measure(llama_dir, rounds=1, tokens=4, prefill_tokens=8, cases=cases, traces=tmp_path)
    assert [(case["kind"], case["captured"]) for case in results] == [
        (kind, name)
        for kind in tax.KINDS
        for name in (tax.PEER, *(case.captured for case in cases if kind in case.kinds))
    ]
    for case in results:
        low, high = case["interval_90"]
        assert 0 < low <= case["to_mlx_lm"] <= high
        assert case["memory_to_mlx_lm"] > 0
        assert (case["to_mlx_lm"] == 1) == (case["captured"] == tax.PEER)
    assert tax.table({"rounds": 1, "cases": results}).row_count == len(results)
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.html"))) == 4


def test_the_interval_of_a_median():
    low, high = interval([1.0] * 9 + [100.0])
    assert (low, high) == (1.0, 1.0)
    low, high = interval([float(number) for number in range(101)])
    assert low == pytest.approx(40, abs=4)
    assert high == pytest.approx(60, abs=4)


def test_generations_at_once(llama_dir: Path):
    results = concurrency.measure(llama_dir, rounds=1, tokens=4)
    assert [case["generations"] for case in results] == [1, 2, 4, 8]
    assert results[0]["to_one"] == 1
    assert all(case["tokens_per_s"] > 0 for case in results)
    assert concurrency.table({"rounds": 1, "tokens": 4, "cases": results}).row_count == 4
