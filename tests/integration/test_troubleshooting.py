"""What docs/troubleshooting.md quotes is what the programs say.

python -m pytest tests/integration/test_troubleshooting.py
"""

import importlib.metadata
import logging
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from neuroscope import Client, errors
from neuroscope.cli import checks
from neuroscope.rest import CapturedActivation, RESTActivationCaptureClient
from neuroscope_gateway.server import listen
from tests.support.http_script import Answer, http_script
from tests.support.services import Service, inference_service

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md").read_text()


def section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


def quoted(name: str) -> set[str]:
    """The messages that a section quotes in its table, in either column, as far as they are sentences."""
    rows = [line for line in section(name).splitlines() if line.startswith("| ") and "you see" not in line]
    return {text for row in rows for text in re.findall(r"`([^`]+)`", row) if len(text.split()) > 3}


def said(findings: list[checks.CheckResult]) -> str:
    return "\n".join(f"{finding.detail}\n{finding.hint}" for finding in findings)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_quoted(name: str, told: str) -> None:
    """Every sentence of a section was told; numbers are the reader's."""
    wanted = quoted(name)
    assert wanted
    for text in wanted:
        pattern = re.sub(r"\d+", r"\\d+", re.escape(text)).replace("'x'", "'\\w+'")
        assert re.search(pattern, told), f"{text!r} was not told in\n{told}"


def test_model_not_found(inference: Service, tmp_path: Path) -> None:
    told: list[str] = []
    with Client(inference.target) as client:
        for call in (
            lambda: client.load_model(tmp_path),
            lambda: client.capture("Hello", ["resid_post"], model_id="x"),
        ):
            with pytest.raises(errors.ModelNotFoundError) as caught:
                call()
            told.append(caught.value.message)
    with inference_service() as empty:
        told.append(said(list(checks.services(empty.target, free_port()))))
    assert_quoted("Model not found", "\n".join(told))


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_LITTLE_MEMORY_BYTES", 1e18)
    assert_quoted("Memory", said(list(checks.machine())))
    assert "less than 4 GB" in section("Memory")


def test_ports(caplog: pytest.LogCaptureFixture) -> None:
    told = [said(list(checks.services(f"127.0.0.1:{free_port()}", free_port())))]
    with http_script(Answer(404, b"{}")) as other:
        port = int(other.url.rsplit(":", 1)[1])
        told.append(said(list(checks.services(f"127.0.0.1:{port}", port))))
    with caplog.at_level(logging.WARNING), listen("127.0.0.1", 0) as first:
        listen("127.0.0.1", first.getsockname()[1]).close()
    told.append(caplog.text)
    with RESTActivationCaptureClient(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(errors.NeuroScopeIntegrationError) as caught:
            client.health()
        told.append(caught.value.message)
    assert_quoted("Ports", "\n".join(told))
    assert "`another program answers`" in section("Ports")
    assert "another program answers" in told[1]


def test_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "torch", None)
    captured = CapturedActivation("h", "", "residual", [1], "float32", False, np.zeros(1, np.float32))
    with pytest.raises(errors.DataConversionError) as caught:
        captured.to_torch()
    monkeypatch.setattr(importlib.metadata, "version", absent)
    told = f"{said(list(checks.packages()))}\n{caught.value.message}"
    assert_quoted("Dependencies", told)
    for hint in ("reinstall: pip install neuroscope-mlx", "pip install 'neuroscope-mlx[viz]'"):
        assert hint in told
        assert f"`{hint}`" in section("Dependencies")
