"""The curl commands of the REST demo, as they are printed, and a way to run them against a gateway on any port."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HEALTH = "curl http://127.0.0.1:8080/health"

LOAD = """\
curl -X POST http://127.0.0.1:8080/v1/models/load \\
  -H "Content-Type: application/json" \\
  -d '{"model_path": "./models/nightmedia/gpt-oss-20b-q4-hi-mlx"}'"""

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

# The demo prints the JSON of a hook and names the two routes.
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


def run(command: str, *, url: str, home: Path) -> Any:
    """The JSON that a command prints; curl finds 127.0.0.1:8080 at the address of the gateway.

    Args:
        command: for bash.
        url: of the gateway.
        home: an empty folder for curl's configuration.
    """
    (home / ".curlrc").write_text(
        f'connect-to = "127.0.0.1:8080:{url.removeprefix("http://")}"\nsilent\nshow-error\nfail-with-body\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment | {"CURL_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
