"""docs/peers.md is what the script makes of the measurements that are kept beside it, and the peers are pinned."""

import json
import re
from pathlib import Path

from scripts.make_peers_page import MODELS, PAGE, RESULTS, page
from tests.bench.peers.environment import LIBRARIES

REQUIREMENTS = Path(__file__).parents[1] / "bench" / "peers" / "requirements.txt"


def pinned() -> dict[str, str]:
    """Every distribution of the requirements and its version."""
    return dict(re.findall(r"^([a-z-]+)==(\S+)$", REQUIREMENTS.read_text(), re.MULTILINE))


def test_the_page_is_what_the_script_makes() -> None:
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()))


def test_every_bench_and_library_is_in_it() -> None:
    results = json.loads(RESULTS.read_text())
    for model in MODELS:
        libraries = {case["library"] for case in results[model]["cases"]}
        assert libraries == {"NeuroScope", "mlx-lm", "TransformerLens", "nnsight", "Hugging Face"}
    assert {"patches", "serving", "absent", "machine", "versions"} <= set(results)


def test_the_libraries_are_pinned_and_no_address_is_named() -> None:
    text = REQUIREMENTS.read_text()
    assert len(pinned()) == sum(not line.startswith("#") for line in text.splitlines())
    assert set(LIBRARIES) <= pinned().keys()
    assert "://" not in text


def test_the_figures_are_of_the_pinned_versions() -> None:
    measured = {
        name: version.partition("+")[0] for name, version in json.loads(RESULTS.read_text())["versions"].items()
    }
    pins = pinned()
    assert {name: measured[name] for name in LIBRARIES} == {name: pins[name] for name in LIBRARIES}
