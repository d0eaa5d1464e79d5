"""tests.bench.rest runs: every way to ask, over real services."""

from pathlib import Path

from tests.bench import rest


def test_a_short_run_of_every_case(llama_dir: Path):
    results = rest.measure(llama_dir, rounds=1, tokens=4)
    assert [(case["captured"], case["way"]) for case in results] == [(case.captured, case.name) for case in rest.CASES]
    for case in results:
        assert case["first_token_ms"] > 0
        assert case["tokens_per_s"] > 0
    assert [case["tokens_per_s_to_grpc"] for case in results if case["way"] == rest.GRPC] == [1, 1]
    assert rest.table({"rounds": 1, "tokens": 4, "cases": results}).row_count == len(results)
