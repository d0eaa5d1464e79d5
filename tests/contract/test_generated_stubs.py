"""The stubs are what the protos say.  Run: .venv/bin/python -m pytest tests/contract/test_generated_stubs.py"""

import re
import tomllib
from pathlib import Path

from scripts.generate_stubs import PACKAGE, ROOT, generate


def contents(package: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(package.iterdir()) if path.is_file()}


def test_regenerated_equals_committed(tmp_path: Path) -> None:
    generate(tmp_path)
    made, committed = contents(tmp_path / PACKAGE), contents(ROOT / "sdk" / PACKAGE)
    assert made.keys() == committed.keys(), "run `make gen`"
    assert [name for name in made if made[name] != committed[name]] == [], "run `make gen`"


def test_the_runtimes_are_no_older_than_the_generated_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = dict(line.split(">=") for line in project["dependencies"])
    stubs = {name: text.decode() for name, text in contents(ROOT / "sdk" / PACKAGE).items() if name.endswith(".py")}
    protobuf = {
        v for text in stubs.values() for v in re.findall(r"^# Protobuf Python Version: (.+)$", text, re.MULTILINE)
    }
    grpcio = {
        v for text in stubs.values() for v in re.findall(r"^GRPC_GENERATED_VERSION = '(.+)'$", text, re.MULTILINE)
    }
    assert protobuf == {floors["protobuf"]}
    assert grpcio == {floors["grpcio"]} == {floors["grpcio-status"]}
