"""`python -m neuroscope.mlx_engine.api_server`, started and used as mlx-engine's documents say.

python -m pytest tests/integration/test_api_server.py
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from neuroscope.cli.processes.services import free_port
from neuroscope.integration import LMStudioNeuroScopeClient

ENVIRONMENT = {"MLX_DISABLE_COMPILE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "NO_COLOR": "1"}
COMMAND = [sys.executable, "-m", "neuroscope.mlx_engine.api_server"]


def test_it_serves_on_its_port_and_loads_over_rest(llama_dir: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, "--port", str(port)], env={**os.environ, **ENVIRONMENT}, stdout=file, stderr=file
        )
    try:
        with LMStudioNeuroScopeClient(f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + 60
            while not client.health_check():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
            assert client.list_models() == []
            client.load_model(llama_dir)
            result = client.generate_with_activations(
                messages=[{"role": "user", "content": "Explain attention"}],
                activation_hooks=[{"layer_name": "transformer.h.3", "component": "attention"}],
                max_tokens=2,
            )
            assert isinstance(result["choices"][0]["message"]["content"], str)
            assert len(result["activations"]) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, log.read_text()
    finally:
        process.kill()
        process.wait()


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT, "COLUMNS": "120"}
    command = [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def test_its_options_are_told() -> None:
    told = started("--help")
    assert told.returncode == 0
    assert all(option in told.stdout for option in ("--host", "--port", "--model", "--debug"))


def test_a_model_that_is_not_there_is_one_line() -> None:
    failed = started("--port", "0", "--model", "/nowhere/at/all")
    assert failed.returncode == 1
    assert "/nowhere/at/all" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stderr
