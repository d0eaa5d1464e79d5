"""Every block of docs/tutorial.md runs, in the order of the page, in a folder of its own.

python -m pytest tests/integration/test_tutorial.py
"""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from neuroscope import ActivationCache
from tests.support.services import Service

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(section: str, language: str) -> list[str]:
    """The blocks of a section in a language that are to be run."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [body for kind, info, body in BLOCK.findall(text) if kind == language and "run=never" not in info]


def test_the_page_has_nothing_else() -> None:
    found = [(kind, info.strip()) for kind, info, _ in BLOCK.findall(PAGE.read_text())]
    run = sum(
        len(blocks(section, kind)) for section, kind in (("Python", "python"), ("curl", "bash"), ("openai", "python"))
    )
    quoted = sum(kind == "text" for kind, _ in found)
    assert found.count(("bash", "run=never")) == 1
    assert len(found) == run + quoted + 1
    assert run == 9


@pytest.fixture
def services(tiny_inference: Service, tiny_gateway: Service) -> tuple[Service, Service]:
    return tiny_inference, tiny_gateway


def run(command: list[str], services: tuple[Service, Service], folder: Path, program: str) -> str:
    """Runs the text of a program, with the addresses of the page replaced by those of the test's services."""
    inference, gateway = services
    program = program.replace("http://127.0.0.1:8080", gateway.target)
    program = program.replace("Client()", f"Client({inference.target!r})")
    done = subprocess.run([*command, program], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python(services: tuple[Service, Service], tmp_path: Path) -> None:
    output = run([sys.executable, "-c"], services, tmp_path, "".join(blocks("Python", "python")))
    assert "neuroscope-tiny 4 layers, 8 heads\nTrue\n" in output
    assert "The capital of France is Paris." in output
    for quoted in blocks("Python", "text"):
        assert quoted in output
    assert ", 128) float32\n" in output
    assert "' Rome'\n" in output
    assert "(1, 8, " in output
    changed = re.search(r"the logit changes by (-?[\d.]+)", output)
    assert changed
    assert abs(float(changed[1])) > 0.1
    assert "logits" in ActivationCache.load(tmp_path / "italy.safetensors")


def test_curl(services: tuple[Service, Service], tmp_path: Path) -> None:
    capture, mistake = blocks("curl", "bash")
    output = run(["bash", "-euc"], services, tmp_path, capture)
    assert output.startswith("The capital of France is Paris.\n[1, ")
    output = run(["bash", "-euc"], services, tmp_path, mistake)
    (quoted,) = blocks("curl", "text")
    assert quoted.strip() in output
    assert '"param":"activation_hooks[0].layer_name"' in output


def test_openai(services: tuple[Service, Service], tmp_path: Path) -> None:
    output = run([sys.executable, "-W", "error", "-c"], services, tmp_path, *blocks("openai", "python"))
    assert output == "The capital of France is Paris.\n"


def test_the_command_that_starts_it(bundled_model_dir: Path) -> None:
    """`neuroscope up` of the page takes these arguments; ports of a test's own are added."""
    (command,) = [body for _, info, body in BLOCK.findall(PAGE.read_text()) if "run=never" in info]
    program, *arguments = command.split()
    assert program == ".venv/bin/neuroscope"
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        ports = [str(probe.getsockname()[1]) for probe in (first, second)]
    own_ports = ["--port-inference", ports[0], "--port-gateway", ports[1]]
    full = [sys.executable, "-m", "neuroscope.cli", *arguments, *own_ports]
    root = bundled_model_dir.parents[1]
    with subprocess.Popen(full, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            assert process.stdout
            seen = b""
            while ports[0].encode() not in seen or ports[1].encode() not in seen:
                line = process.stdout.readline()
                assert line, seen
                seen += line
        finally:
            process.terminate()
