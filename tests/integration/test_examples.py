"""Every program of examples/ runs as its own header says, against real services."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.services import Service

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def services(tiny_inference: Service, tiny_gateway: Service) -> tuple[Service, Service]:
    return tiny_inference, tiny_gateway


def run_example(name: str, services: tuple[Service, Service]) -> str:
    inference, gateway = services
    command = ["bash", str(EXAMPLES / name)] if name.endswith(".sh") else [sys.executable, str(EXAMPLES / name)]
    environment = {
        **os.environ,
        "NEUROSCOPE_TARGET": inference.target,
        "NEUROSCOPE_URL": gateway.target,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    programs = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert programs == {"first_capture.py", "stubs_only.py", "rest.sh", "openai_chat.py", "steering.py"}


def test_first_capture(services: tuple[Service, Service]) -> None:
    output = run_example("first_capture.py", services)
    assert "The capital of France is Paris." in output
    assert "saved and loaded" in output


def test_steering(services: tuple[Service, Service]) -> None:
    output = run_example("steering.py", services)
    assert "resid_post.1[positions -1; steps 0] := act + 2·tensor(" in output
    assert "steered: Rome." in output
    assert "patched: ['John.', 'John.']" in output
    assert "ablated: John." in output
    assert "halved MLPs from step 12 on: Once" in output


def test_stubs_only(services: tuple[Service, Service]) -> None:
    output = run_example("stubs_only.py", services)
    assert "step 0: resid_post of layer 1 (1," in output
    assert "as the manifest says" in output


def test_rest(services: tuple[Service, Service]) -> None:
    output = run_example("rest.sh", services)
    assert "'layer_name': 'transformer.h.1', 'component': 'attention', 'shape': [1," in output


def test_openai_chat(services: tuple[Service, Service]) -> None:
    output = run_example("openai_chat.py", services)
    assert output.count("The capital of Italy is Rome.") == 2
