"""tests.bench.capture runs: what is captured arrives and is checked, and every case has its figures."""

from tests.bench import capture

SHAPE = {**capture.SHAPE, "hidden_size": 512, "num_hidden_layers": 4, "intermediate_size": 64}


def test_a_short_run():
    heard: list[str] = []
    result = capture.run(gigabytes=0.02, rounds=1, shape=SHAPE, progress=heard.append)
    alone, fast, slow = result["cases"]
    layers, width, components = 4, 512, 3
    assert fast["bytes"] == slow["bytes"] == result["positions"] * layers * width * components * 4
    assert alone["bytes"] == width * 4
    assert alone["chunk_positions"] == fast["chunk_positions"] == result["chunk_positions"]
    assert slow["mb_per_s"] < fast["mb_per_s"] / 5
    assert all(case["server_cpu_s"] > 0 and case["client_cpu_s"] > 0 for case in result["cases"])
    assert len(result["streaming_cpu_s_per_gb_rounds"]) == 1
    assert capture.table(result).row_count == 3
    assert heard[-1] == "a reader 10 times slower"
