"""CORS as a real browser enforces it: a page of another origin calls the gateway.  Skipped where there is no browser.

Run: apt-get install chromium, then python -m pytest tests/integration/test_browser.py
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.browser import find_browser, origin
from tests.support.services import Service, running

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no browser; install chromium")

SCRIPT = """<!doctype html><title>a page</title><script type="module">
const gateway = "GATEWAY", key = "KEY", seen = {};
const json = {"Content-Type": "application/json", ...(key ? {Authorization: "Bearer " + key} : {})};
const ask = async (name, work) => {
  try { seen[name] = await work(); } catch (error) { seen[name] = {failed: String(error)}; }
};
const post = (path, body) => fetch(gateway + path, {method: "POST", headers: json, body: JSON.stringify(body)});
const messages = [{role: "user", content: "Hello there"}];
await ask("health", async () => (await fetch(gateway + "/health")).status);
await ask("chat", async () => {
  const answer = await post("/v1/chat/completions", {messages, max_tokens: 2});
  return {status: answer.status, choices: (await answer.json()).choices.length, id: answer.headers.get("x-request-id")};
});
await ask("stream", async () => {
  const answer = await post("/v1/chat/completions", {messages, max_tokens: 400, stream: true});
  const reader = answer.body.getReader();
  let text = "", parts = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    parts += 1;
    text += new TextDecoder().decode(value);
  }
  return {parts, ended: text.endsWith("data: [DONE]\\n\\n")};
});
await ask("error", async () => {
  const answer = await post("/v1/chat/completions", {messages, temperature: 9});
  return {status: answer.status, param: (await answer.json()).error.param};
});
await ask("bytes", async () => {
  const hook = {component: "residual", layer_name: "blocks.1", hook_id: "h"};
  const body = {messages, max_tokens: 2, activation_hooks: [hook], activation_format: "metadata"};
  const kept = await (await post("/v1/chat/completions/with_activations", body)).json();
  const {url} = kept.activations.h[0];
  const answer = await fetch(gateway + url, {headers: {...json, Range: "bytes=0-7"}});
  const bytes = (await answer.arrayBuffer()).byteLength;
  const told = Object.fromEntries(["content-range", "etag", "x-neuroscope-dtype", "x-neuroscope-shape",
    "x-neuroscope-axes", "accept-ranges"].map(name => [name, answer.headers.get(name)]));
  const gone = await fetch(gateway + "/v1/activations/captures/" + kept.capture_id, {method: "DELETE", headers: json});
  return {status: answer.status, bytes, told, deleted: (await gone.json()).deleted};
});
await ask("leave", async () => {
  const stop = new AbortController();
  const answer = await fetch(gateway + "/v1/chat/completions", {method: "POST", headers: json, signal: stop.signal,
    body: JSON.stringify({messages, max_tokens: 100, stream: true})});
  await answer.body.getReader().read();
  stop.abort();
  return true;
});
await ask("plain", async () => {  // no preflight: what a form could send
  const answer = await fetch(gateway + "/v1/activations/hooks", {method: "POST",
    headers: {"Content-Type": "text/plain"}, body: '{"component": "residual", "hook_id": "planted"}'});
  return answer.status;
});
await ask("blind", async () => (await fetch(gateway + "/v1/models/load", {method: "POST", mode: "no-cors",
  headers: {"Content-Type": "text/plain"}, body: '{"model_path": "/etc"}'})).type);
await fetch("/report", {method: "POST", body: JSON.stringify(seen)});
</script>"""


def page(gateway: str, key: str = "") -> str:
    return SCRIPT.replace("GATEWAY", gateway).replace("KEY", key)


def seen_from(gateway: Service, host: str = "localhost", key: str = "") -> dict[str, Any]:
    assert BROWSER is not None
    with origin(page(gateway.target, key)) as site:
        return site.open_in(BROWSER, host)


@pytest.fixture(scope="module")
def open_gateway(inference: Service) -> Iterator[Service]:
    """One with the default origins and a key, whose requests have a preflight for their Authorization too."""
    arguments = ("--port", "0", "--inference", inference.target, "--api-keys", "secret")
    with running("neuroscope_gateway", *arguments) as service:
        yield service


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_page_of_an_allowed_origin_uses_everything(open_gateway: Service, host: str) -> None:
    seen = seen_from(open_gateway, host, "secret")
    assert seen["health"] == 200
    assert (seen["chat"]["status"], seen["chat"]["choices"]) == (200, 1)
    assert seen["chat"]["id"], "exposed headers can be read"
    assert seen["stream"]["ended"]
    assert seen["stream"]["parts"] > 1, "it comes as it is made"
    assert seen["error"] == {"status": 400, "param": "temperature"}
    assert (seen["bytes"]["status"], seen["bytes"]["bytes"], seen["bytes"]["deleted"]) == (206, 8, True)
    told = seen["bytes"]["told"]
    assert told["content-range"].startswith("bytes 0-7/")
    assert (told["x-neuroscope-dtype"], told["accept-ranges"]) == ("float32", "bytes")
    assert told["x-neuroscope-axes"] == "batch,position,d_model"
    assert all(told.values())
    assert seen["leave"] is True
    assert seen["plain"] == 401, "a request without a preflight has no key"


def test_a_page_of_another_origin_sees_and_does_nothing(inference: Service) -> None:
    arguments = ("--port", "0", "--inference", inference.target, "--allowed-origins", "https://lab.example")
    with running("neuroscope_gateway", *arguments) as gateway:
        seen = seen_from(gateway)
        assert {name for name in seen if name != "blind"} == {name for name, told in seen.items() if _failed(told)}
        assert seen["blind"] == "opaque"
        assert httpx.get(f"{gateway.target}/v1/activations/hooks").json()["hooks"] == []


def test_an_allow_list_is_of_whole_origins(inference: Service) -> None:
    assert BROWSER is not None
    arguments = ("--port", "0", "--inference", inference.target)
    with origin("") as other:  # the same host on another port is another origin
        allowed = f"http://localhost:{other.port}"
    with running("neuroscope_gateway", *arguments, "--allowed-origins", allowed) as gateway:
        assert _failed(seen_from(gateway)["chat"])


def _failed(told: Any) -> bool:
    return isinstance(told, dict) and "failed" in told
