"""The curl commands of the REST demo.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_curl.py

They run as they are printed. Only the model's path differs, and curl is told to find 127.0.0.1:8080 at the port of the
test's gateway.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_inference import FakeInference
from tests.support.running_gateway import RunningGateway

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

HEALTH = "curl http://127.0.0.1:8080/health"

LOAD = """\
curl -X POST http://127.0.0.1:8080/v1/models/load \\
  -H "Content-Type: application/json" \\
  -d '{"model_path": "./models/neuroscope-tiny"}'"""

WITH_ACTIVATIONS = """\
curl -X POST http://127.0.0.1:8080/v1/chat/completions/with_activations \\
  -H "Content-Type: application/json" \\
  -d '{
    "messages": [{"role": "user", "content": "Hello!"}],
    "activation_hooks": [{
      "layer_name": "transformer.h.5",
      "component": "attention",
      "hook_id": "test_hook"
    }]
  }'"""

REGISTER = """\
curl -X POST http://127.0.0.1:8080/v1/activations/hooks \\
  -H "Content-Type: application/json" \\
  -d '{
  "layer_name": "transformer.h.5",
  "component": "attention",
  "hook_id": "unique_hook_id",
  "capture_input": false,
  "capture_output": true
}'"""

CLEAR = "curl -X DELETE http://127.0.0.1:8080/v1/activations/hooks"


@pytest.fixture
def run(gateway: RunningGateway, fake: FakeInference, tmp_path: Path) -> Any:
    (tmp_path / ".curlrc").write_text(
        f'connect-to = "127.0.0.1:8080:{gateway.url.removeprefix("http://")}"\nsilent\nfail-with-body\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}

    def running(command: str) -> Any:
        done = subprocess.run(
            ["bash", "-c", command],
            env=environment | {"CURL_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    return running


def test_health(run: Any) -> None:
    assert run(HEALTH)["status"] == "healthy"


def test_load_then_generate_with_activations(run: Any) -> None:
    assert run(LOAD)["model_id"] == "neuroscope-tiny"
    answer = run(WITH_ACTIVATIONS)
    assert answer["choices"][0]["message"]["content"] == "Hello!"
    activation = answer["activations"]["test_hook"][0]
    assert list(activation) == ["hook_id", "layer_name", "component", "shape", "dtype", "is_input", "data"]
    assert (activation["layer_name"], activation["component"]) == ("transformer.h.5", "attention")


def test_register_and_clear(run: Any) -> None:
    assert run(REGISTER) == {"registered_hooks": ["unique_hook_id"]}
    assert run(CLEAR)["cleared_hooks"] == ["unique_hook_id"]
