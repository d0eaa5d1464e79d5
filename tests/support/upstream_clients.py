"""The requests of the two Python clients of mlx-engine's NeuroScope integration, and what they read of the answers.

Written after their public interface, with httpx where they have requests. Nothing here knows of this project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx


class IntegrationClient:
    """As `LMStudioNeuroScopeClient` calls: of the integration's summary."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def health_check(self) -> bool:
        return self.http.get("/health").status_code == 200

    def load_model(self, model_path: str, model_id: str | None = None, **others: Any) -> Any:
        body = {"model_path": model_path, "model_id": model_id or Path(model_path).name} | others
        return self.http.post("/v1/models/load", json=body).raise_for_status().json()

    def list_models(self) -> Any:
        return self.http.get("/v1/models").raise_for_status().json()["models"]

    def generate_with_activations(
        self, messages: Any, activation_hooks: Any, model: str | None = None, max_tokens: int = 100
    ) -> Any:
        body: dict[str, Any] = {
            "messages": messages,
            "activation_hooks": activation_hooks,
            "max_tokens": max_tokens,
            "temperature": 0.7,
            "top_p": 0.9,
            "stream": False,
        }
        if model:
            body["model"] = model
        return self.http.post("/v1/chat/completions/with_activations", json=body).raise_for_status().json()

    def register_hooks(self, hooks: Any, model: str | None = None) -> Any:
        body = {"hooks": hooks} | ({"model": model} if model else {})
        return self.http.post("/v1/activations/hooks", json=body).raise_for_status().json()["registered_hooks"]

    def clear_hooks(self, model: str | None = None) -> Any:
        query = {"model": model} if model else {}
        return self.http.delete("/v1/activations/hooks", params=query).raise_for_status().json()


class DemoClient(IntegrationClient):
    """As the REST demo's client calls: it sends every parameter, and reads the raw answers."""

    def load_model(self, model_path: str, model_id: str | None = None, **others: Any) -> Any:
        return super().load_model(model_path, model_id, trust_remote_code=False, max_kv_size=4096, **others)

    def chat_completion(self, messages: Any, **chosen: Any) -> Any:
        return self.http.post("/v1/chat/completions", json=self._body(messages, chosen)).raise_for_status().json()

    def chat_completion_with_activations(self, messages: Any, activation_hooks: Any, **chosen: Any) -> httpx.Response:
        body = self._body(messages, chosen) | {"activation_hooks": activation_hooks}
        return self.http.post("/v1/chat/completions/with_activations", json=body)

    def clear_activation_hooks(self, model: str | None = None) -> bool:
        return self.clear_hooks(model)["status"] == "hooks cleared"

    def _body(self, messages: Any, chosen: dict[str, Any]) -> dict[str, Any]:
        defaults = {"max_tokens": 100, "temperature": 0.7, "top_p": 0.9, "stop": [], "stream": False}
        return {"messages": messages} | defaults | chosen
