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


OURS_ABOVE = {"neuroscope_serving", "neuroscope.viz", "neuroscope.rest", "neuroscope.cli"}
HEAVY = {
    "fastapi", "httpx", "matplotlib", "ml_dtypes", "mlx", "networkx", "opentelemetry.exporter", "opentelemetry.sdk",
    "pandas", "pydantic", "rich", "safetensors", "scipy", "sklearn", "tenacity", "torch", "typer", "uvicorn",
}  # fmt: skip
OF_CALLS = {"google.protobuf", "grpc", "numpy", "opentelemetry", "xxhash"}
"""What only a program that calls a service needs."""
HELP = """
import sys
from neuroscope.cli import main
sys.argv = ["neuroscope", "--help"]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    ("code", "not_needed"),
    [
        ("import neuroscope", OURS_ABOVE | HEAVY | OF_CALLS | {"asyncio", "importlib.metadata", "neuroscope.errors"}),
        ("from neuroscope import Client", OURS_ABOVE | HEAVY | {"grpc_status"}),
        ("from neuroscope.analysis import AnalysisClient", OURS_ABOVE | HEAVY),
        (HELP, (OURS_ABOVE | HEAVY | OF_CALLS | {"neuroscope.client"}) - {"neuroscope.cli", "typer", "rich"}),
    ],
    ids=["the package", "a client", "an analysis client", "the help"],
)
def test_a_program_loads_what_it_needs(code: str, not_needed: set[str]):
    code += "\nimport sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not_needed & set(out.splitlines()[-1].split()) == set()
