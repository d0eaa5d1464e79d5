"""The floors of the SDK and of the services, docs/structure.md: no import circle anywhere, also within packages.

The order of the floors itself is held by import-linter: `make lint`, contracts in pyproject.toml.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import networkx
import pytest

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def test_there_is_no_import_circle():
    """Imports within functions and those for type checkers alone count."""
    graph = grimp.build_graph(*CONFIG["root_packages"], cache_dir=None)
    imports = networkx.DiGraph()
    for module in graph.modules:
        imports.add_edges_from((module, imported) for imported in graph.find_modules_directly_imported_by(module))
    assert imports.number_of_edges() > 3000
    assert [sorted(circle) for circle in networkx.strongly_connected_components(imports) if len(circle) > 1] == []


def test_the_floors_have_no_exceptions():
    for contract in CONFIG["contracts"]:
        assert not contract.keys() & {"ignore_imports", "exhaustive_ignores"}, contract["name"]
        assert not contract.get("allow_indirect_imports"), contract["name"]


HEAVY = {
    "neuroscope_serving",
    "neuroscope.viz",
    "matplotlib",
    "rich",
    "networkx",
    "fastapi",
    "mlx",
    "pydantic",
    "safetensors",
    "opentelemetry.sdk",
}


@pytest.mark.parametrize("statement", ["import neuroscope", "from neuroscope import Client"])
def test_a_client_loads_nothing_that_it_does_not_need(statement: str):
    code = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert HEAVY & set(out.stdout.split()) == set()
