#!/usr/bin/env bash
# The REST API with curl. In another terminal: neuroscope up
set -euo pipefail
url="${NEUROSCOPE_URL:-http://127.0.0.1:8080}"
model="${NEUROSCOPE_MODEL:-$(cd "$(dirname "$0")/.." && pwd)/models/neuroscope-tiny}"

curl --fail-with-body --silent "$url/health"
echo

curl --fail-with-body --silent -X POST "$url/v1/models/load" \
  -H "Content-Type: application/json" \
  -d "{\"model_path\": \"$model\"}"
echo

curl --fail-with-body --silent -X POST "$url/v1/chat/completions/with_activations" \
  -H "Content-Type: application/json" \
  -d '{
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 4,
    "activation_hooks": [{
      "layer_name": "transformer.h.1",
      "component": "attention",
      "hook_id": "test_hook"
    }]
  }' | python3 -c '
import json, sys
answer = json.load(sys.stdin)
print(answer["choices"][0]["message"]["content"])
for activation in answer["activations"]["test_hook"]:
    print({key: value for key, value in activation.items() if key != "data"})
'
