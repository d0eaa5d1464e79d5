"""docs/performance.md is what the script makes of the measurements that are kept beside it."""

import json

from scripts.make_performance_page import PAGE, RESULTS, page


def test_the_page_is_what_the_script_makes() -> None:
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()))


def test_every_bench_and_model_is_in_it() -> None:
    results = json.loads(RESULTS.read_text())
    assert {"wire", "capture", "tax", "concurrency", "analysis", "machine", "versions"} <= set(results)
    for bench in ("tax", "concurrency"):
        assert {case["model"] for case in results[bench]["cases"]} == {"llama-124m", "gpt2-124m", "neuroscope-tiny"}
