"""The locks hold everything, hashed.  Run: .venv/bin/python -m pytest tests/unit/test_requirements.py"""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def locked(lock: Path) -> dict[str, str]:
    """Every distribution of a lock and its version."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def normalised(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_address_and_hashes_everything(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^--", text, re.MULTILINE)
    pins = re.findall(r"^[a-z0-9].*(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+", text, re.MULTILINE)
    assert len(pins) == len(locked(lock)) > 0


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_agrees_with_the_one_that_is_tested_and_has_no_torch(lock: Path) -> None:
    pins = locked(lock)
    assert pins.items() <= locked(ROOT / "requirements/dev.txt").items()
    assert "torch" not in pins


def test_everything_that_is_required_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = {
        normalised(line) for line in [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    }
    assert required - {project["name"]} <= locked(ROOT / "requirements/dev.txt").keys()
    assert {normalised(line) for line in project["dependencies"]} <= locked(ROOT / "requirements/sdk.txt").keys()
    for extra in ("inference", "analysis", "gateway"):
        assert {normalised(line) for line in extras[extra]} <= locked(ROOT / f"requirements/{extra}.txt").keys()


def test_only_the_inference_service_installs_mlx() -> None:
    assert [lock.stem for lock in LOCKS if "mlx" in locked(lock)] == ["dev", "inference"]
