"""The client that mlx-engine's NeuroScope integration has: methods in, JSON out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Literal, overload

from neuroscope.errors import NeuroScopeIntegrationError
from neuroscope.rest.client import DEFAULT_BASE_URL, WITH_ACTIVATIONS, HookRef, request_body
from neuroscope.rest.gateway import GatewayConnection
from neuroscope.rest.hook_manager import HOOKS, HookSpecLike, to_api_format
from neuroscope.rest.model_manager import LOAD, MODELS


class LMStudioNeuroScopeClient:
    """Calls a gateway and gives its JSON. Thread-safe; use it in a `with` block, or close it.

    Args:
        base_url: of the gateway.
        timeout: seconds for connecting, and for every wait for bytes of an answer; a load may take any time.
        api_key: one of the gateway's keys; empty: it asks for none.

    Every method but `health_check` raises errors of `neuroscope.errors`; `field` of an error is the REST parameter.
    """

    def __init__(self, base_url: str = DEFAULT_BASE_URL, timeout: float = 300, *, api_key: str = "") -> None:
        self._gateway = GatewayConnection(base_url, timeout, api_key)

    @property
    def base_url(self) -> str:
        """Where the gateway is."""
        return self._gateway.base_url

    def close(self) -> None:
        """Frees the connections."""
        self._gateway.close()

    def __enter__(self) -> LMStudioNeuroScopeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def health_check(self) -> bool:
        """Whether a gateway answers, and the inference service behind it."""
        try:
            return bool(self._gateway.request("GET", "/health")["status"] == "healthy")
        except NeuroScopeIntegrationError:
            return False

    def load_model(self, model_path: str | PathLike[str], model_id: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Loads a model and waits until it is ready: `model_id`, `status`, `supports_activations`, and its shape.

        Args:
            model_path: a folder as the inference service sees it, or a Hugging Face id.
            model_id: name in later requests; None: the last part of the path.
            **kwargs: any other parameter of `/v1/models/load`: revision, adapter_path.

        Raises:
            ModelNotFoundError, ModelCorruptError, ModelUnsupportedError, IdTakenError, PermissionDeniedError
        """
        body = {"model_path": fspath(model_path)} | ({"model_id": model_id} if model_id else {}) | kwargs
        return self._gateway.request("POST", LOAD, body, wait_forever=True)

    def list_models(self) -> list[dict[str, Any]]:
        """The loaded models, in the order in which they were loaded."""
        return self._gateway.request("GET", MODELS)["data"]

    @overload
    def generate_with_activations(
        self,
        messages: Sequence[Mapping[str, Any]],
        activation_hooks: Sequence[HookRef],
        model: str | None = None,
        max_tokens: int = 100,
        temperature: float = 0.7,
        top_p: float = 0.9,
        stop: str | Sequence[str] | None = None,
        stream: Literal[False] = False,
        **kwargs: Any,
    ) -> dict[str, Any]: ...

    @overload
    def generate_with_activations(
        self,
        messages: Sequence[Mapping[str, Any]],
        activation_hooks: Sequence[HookRef],
        model: str | None = None,
        max_tokens: int = 100,
        temperature: float = 0.7,
        top_p: float = 0.9,
        stop: str | Sequence[str] | None = None,
        *,
        stream: Literal[True],
        **kwargs: Any,
    ) -> Iterator[dict[str, Any]]: ...

    def generate_with_activations(
        self,
        messages: Sequence[Mapping[str, Any]],
        activation_hooks: Sequence[HookRef],
        model: str | None = None,
        max_tokens: int = 100,
        temperature: float = 0.7,
        top_p: float = 0.9,
        stop: str | Sequence[str] | None = None,
        stream: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Answers a conversation, and captures on the way.

        Args:
            messages: of the conversation, each with role and content.
            activation_hooks: REST objects of hooks, `ActivationHookSpec`s, and ids of registered hooks.
            model: a loaded model; None: the one that was loaded first.
            max_tokens: most tokens to generate.
            temperature: 0: always the likeliest token.
            top_p: keeps the smallest set of tokens whose probability reaches this.
            stop: texts that end the answer.
            stream: gives the lines of the stream as they come; closing the iterator cancels the generation.
            **kwargs: any other parameter of `/v1/chat/completions/with_activations`: seed, activation_format, ...

        Returns:
            `choices`, `usage`, and `activations`: for every hook id its tensors in step order, data as nested lists.

        Raises:
            UnknownIdError, UnknownSiteError, UnavailableSiteError, HookNeverFiredError, ContextLengthError
            DataConversionError: a tensor holds NaN or infinity; ask for `activation_format="base64"`.
        """
        body = request_body(messages, activation_hooks, kwargs, hooks_field="activation_hooks") | {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }
        body |= ({"model": model} if model else {}) | ({"stop": stop} if stop else {})
        if stream:
            return self._gateway.stream_lines(WITH_ACTIVATIONS, body | {"stream": True})
        return self._gateway.request("POST", WITH_ACTIVATIONS, body)

    def register_hooks(self, hooks: Sequence[HookSpecLike], model: str | None = None) -> list[str]:
        """Registers hooks at the service, all of them or none; returns their ids.

        Args:
            hooks: REST objects of hooks, or `ActivationHookSpec`s.
            model: a loaded model to check them against; None: only their names are checked.

        Raises:
            UnknownSiteError, UnavailableSiteError, IdTakenError
        """
        body = {"hooks": [to_api_format(hook) for hook in hooks]} | ({"model": model} if model else {})
        return self._gateway.request("POST", HOOKS, body, idempotent=False)["registered_hooks"]

    def clear_hooks(self, model: str | None = None) -> dict[str, Any]:
        """Removes all registered hooks: `status`, and `cleared_hooks`.

        Args:
            model: checked to be loaded. Hooks belong to the service and are for every model, so all of them go.
        """
        return self._gateway.request("DELETE", HOOKS, {}, idempotent=False, query={"model": model} if model else {})
