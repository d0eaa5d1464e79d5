"""tests.bench.speed runs: mlx-lm and both of our carriers take turns on one model, and generate the same."""

from pathlib import Path

from tests.bench import speed


def test_a_short_run_of_every_case(llama_dir: Path):
    cases = speed.measure(llama_dir, rounds=1, decode_tokens=4, prefill_tokens=8)
    assert [case["kind"] for case in cases] == ["decode"] * 7 + ["prefill"] * 5
    assert [case["carrier"] for case in cases if case["kind"] == "prefill"] == [
        "mlx-lm", "gRPC", "gRPC", "in process", "in process"
    ]  # fmt: skip
    for case in cases:
        assert case["tokens_per_s"] > 0
        assert case["to_mlx_lm"] > 0
        assert case["hooks"] != "no hooks" or case["to_no_hooks"] == 1
    assert speed.table({"cases": cases}).row_count == 12
