"""The contract keeps what it promised.  Run: .venv/bin/python -m pytest tests/contract/test_breaking.py"""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "protos/released.binpb"  # made by `make release-contract`
BUF = Path(sysconfig.get_path("scripts")) / "buf"


def buf_breaking(tree: Path, against: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BUF), "breaking", str(tree), "--against", str(against)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the contract, to break."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def test_the_tree_keeps_the_released_contract() -> None:
    run = buf_breaking(ROOT, RELEASED)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("pattern", "replacement", "complaint"),
    [
        (r"^(  string model_path = )1;", r"\g<1>101;", 'field "1" with name "model_path"'),
        (r"^  string( model_path = 1;)", r"  bytes\1", 'Field "1" with name "model_path"'),
        (r"^  rpc Tokenize\(.*\n", "", 'RPC "Tokenize"'),
    ],
    ids=["a field's number", "a field's type", "an RPC that is gone"],
)
def test_a_break_is_caught(tree: Path, pattern: str, replacement: str, complaint: str) -> None:
    assert buf_breaking(tree, RELEASED).returncode == 0
    proto = tree / "protos/neuroscope/v1/inference.proto"
    broken, changes = re.subn(pattern, replacement, proto.read_text(), count=1, flags=re.MULTILINE)
    assert changes == 1
    proto.write_text(broken)
    run = buf_breaking(tree, RELEASED)
    assert run.returncode != 0
    assert complaint in run.stdout
