"""tests.bench.wire runs, and its readers read what was sent."""

from tests.bench import wire


def test_a_short_run_of_every_kind():
    cases = ["tcp/large", "sync/large", "async/small", "protobuf/large", "gRPC alone/large"]
    result = wire.run(gigabytes=0.02, rounds=1, cases=cases)
    assert [case["case"] for case in result["cases"]] == cases
    for case in result["cases"]:
        assert case["bytes"] > 1e7
        assert case["client_cpu_s_per_gb"] >= 0
    assert result["cases"][2]["client_cpu_ms_per_step"] > 0
    assert wire.table(result).row_count == len(cases)
