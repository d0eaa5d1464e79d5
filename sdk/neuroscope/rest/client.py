"""The client of a gateway's REST interface."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from os import PathLike
from types import TracebackType
from typing import Any, TypeAlias

from neuroscope.errors import InvalidRequestError, NeuroScopeIntegrationError, StreamingError, UnknownIdError
from neuroscope.rest.architecture import ModelLoadResult
from neuroscope.rest.capture_manager import CaptureManager
from neuroscope.rest.gateway import GatewayConnection
from neuroscope.rest.generation import GenerationWithActivations, StreamingResult
from neuroscope.rest.hook_manager import HookManager, HookSpecLike, to_api_format
from neuroscope.rest.model_manager import ModelManager
from neuroscope.rest.preset_manager import PresetManager

HookRef: TypeAlias = "str | HookSpecLike"
DEFAULT_BASE_URL = "http://127.0.0.1:8080"
_CHAT = "/v1/chat/completions"
WITH_ACTIVATIONS = f"{_CHAT}/with_activations"
"""The route."""
_METADATA = "metadata"
_EXACT = {"activation_format": "base64"}


class RESTActivationCaptureClient:
    """Calls a gateway. Thread-safe; use it in a `with` block, or close it.

    Args:
        base_url: of the gateway.
        timeout: seconds for connecting, and for every wait for bytes of an answer. An answer that is not streamed has
            no byte before it is complete, so long ones want a longer timeout, or `stream_with_activations`.
        api_key: one of the gateway's keys; empty: it asks for none.

    Attributes:
        models: loads, describes and frees models (`ModelManager`).
        hooks: registered hooks (`HookManager`).
        presets: hooks for common questions, and scenarios (`PresetManager`).
        captures: kept streams, and their tensors as bytes (`CaptureManager`).

    A gateway that cannot be reached is tried four times within two seconds; a connection that breaks before the answer
    is there is no error as long as asking again does no harm. Every method raises errors of `neuroscope.errors`, among
    them NeuroScopeIntegrationError where no gateway answers, and DeadlineExceededError after the timeout. `field` of an
    error is the REST parameter at fault.
    """

    def __init__(self, base_url: str = DEFAULT_BASE_URL, timeout: float = 30, *, api_key: str = "") -> None:
        self._gateway = GatewayConnection(base_url, timeout, api_key)
        self.models = ModelManager(self._gateway)
        self.hooks = HookManager(self._gateway)
        self.presets = PresetManager(self._gateway)
        self.captures = CaptureManager(self._gateway)

    @property
    def base_url(self) -> str:
        """Where the gateway is."""
        return self._gateway.base_url

    def close(self) -> None:
        """Frees the connections."""
        self._gateway.close()

    def __enter__(self) -> RESTActivationCaptureClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def health(self) -> dict[str, Any]:
        """State of the gateway and of the service behind it: status, version, models, workload.

        Raises:
            NeuroScopeIntegrationError: one of the two does not answer.
        """
        return self._gateway.request("GET", "/health")

    def load_model(self, model_path: str | PathLike[str], **options: Any) -> ModelLoadResult:
        """Loads a model and waits until it is ready; later requests of this client go to it unless they name another.

        Options and errors are those of `ModelManager.load`.
        """
        return self.models.load(model_path, **options)

    def create_activation_hooks(self, hook_specs: Sequence[HookSpecLike]) -> list[str]:
        """Registers hooks at the service, all of them or none; returns their ids, in order.

        They are checked against the model that this client loaded, if it loaded one.

        Raises:
            UnknownSiteError, UnavailableSiteError, IdTakenError
        """
        return self.hooks.register(hook_specs, model_id=self.models.current)

    def generate_with_activations(
        self, messages: Sequence[Mapping[str, Any]], hooks: Sequence[HookRef] = (), **kwargs: Any
    ) -> GenerationWithActivations:
        """Answers a conversation, and captures on the way.

        Args:
            messages: of the conversation, each with role and content.
            hooks: ids of registered hooks; hooks themselves (`ActivationHookSpec`, REST objects) serve as well.
            **kwargs: any parameter of `/v1/chat/completions/with_activations`: max_tokens, temperature (0 unless told
                otherwise), top_p, top_k, min_p, seed, stop, logprobs, model, interventions, kv_bits, ...
                `activation_format` is how tensors travel: base64 in the answer unless told otherwise, `list`, or
                `metadata`, with which each is fetched as bytes after the answer, and stays at the service for a while
                (`captures`). base64 and bytes carry NaN and infinity, lists do not.

        Raises:
            UnknownIdError, UnknownSiteError, UnavailableSiteError, HookNeverFiredError, ContextLengthError
            DataConversionError: with `list`, a tensor holds NaN or infinity.
            InvalidRequestError: a parameter is unknown or out of range.
        """
        body = _EXACT | self._body(messages, hooks, kwargs)
        answer = self._gateway.request("POST", WITH_ACTIVATIONS, body)
        with _understood(self.base_url):
            if body["activation_format"] == _METADATA:
                self._fetch(answer["activations"])
            return GenerationWithActivations.from_api_format(answer)

    def stream_with_activations(
        self, messages: Sequence[Mapping[str, Any]], hooks: Sequence[HookRef] = (), **kwargs: Any
    ) -> Iterator[StreamingResult]:
        """The same, token by token; the last result is complete and carries no token.

        The request begins with the first `next`. Closing the iterator, or forgetting it, cancels the generation.

        Raises, while it is iterated, what `generate_with_activations` raises, and
            StreamingError: the stream broke off.
            InvalidRequestError: `activation_format` is `metadata`, whose tensors are there after the stream alone.
        """
        body = _EXACT | self._body(messages, hooks, kwargs) | {"stream": True}
        if body["activation_format"] == _METADATA:
            raise InvalidRequestError(
                "a stream carries its tensors; leave out activation_format, or call generate_with_activations",
                field="activation_format",
            )
        return self._stream(body)

    def clear_activation_hooks(self, hook_ids: Iterable[str] | None = None) -> bool:
        """Removes registered hooks, all if none is named.

        Returns:
            Whether they are gone; False: one of the ids was not registered, and nothing was removed.
        """
        try:
            self.hooks.clear(hook_ids)
        except UnknownIdError:
            return False
        return True

    # Answers as JSON has them.

    def chat_completion(self, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> dict[str, Any]:
        """Answers a conversation: the `chat.completion` object, as OpenAI's clients know it."""
        body = self._body(messages, (), kwargs)
        del body["activation_hooks"]
        return self._gateway.request("POST", _CHAT, body)

    def chat_completion_with_activations(
        self, messages: Sequence[Mapping[str, Any]], activation_hooks: Sequence[HookRef] = (), **kwargs: Any
    ) -> dict[str, Any]:
        """The same with `activations`: for every hook id its tensors in step order, their data as nested lists.

        Raises:
            DataConversionError: a tensor holds NaN or infinity; ask for `activation_format="base64"`.
        """
        return self._gateway.request("POST", WITH_ACTIVATIONS, self._body(messages, activation_hooks, kwargs))

    def _body(
        self, messages: Sequence[Mapping[str, Any]], hooks: Sequence[HookRef], parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        body = request_body(messages, hooks, parameters)
        return {"model": self.models.current} | body if self.models.current else body

    def _fetch(self, activations: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        for several in activations.values():
            for one in several:
                one["data"] = self.captures.fetch(one["url"])

    def _stream(self, body: Mapping[str, Any]) -> Generator[StreamingResult, None, None]:
        with closing(self._gateway.stream_lines(WITH_ACTIVATIONS, body)) as lines:
            for step, line in enumerate(lines):
                with _understood(self.base_url):
                    result = StreamingResult.from_api_format(line, step)
                yield result
                if result.is_complete:
                    return
        raise StreamingError("the stream broke off: it ended before its last line")


@contextmanager
def _understood(base_url: str) -> Generator[None]:
    """Whoever lacks what a gateway always says is none."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise NeuroScopeIntegrationError(
            f"what answers at {base_url} is no gateway of NeuroScope-MLX: {error!r}"
        ) from None


def request_body(
    messages: Sequence[Mapping[str, Any]],
    hooks: Sequence[HookRef],
    parameters: Mapping[str, Any],
    *,
    hooks_field: str = "hooks",
) -> dict[str, Any]:
    """The body of a request for `/v1/chat/completions/with_activations`.

    Args:
        messages, hooks, parameters: as in `RESTActivationCaptureClient.generate_with_activations`.
        hooks_field: what the caller's caller calls the hooks.

    Raises:
        InvalidRequestError: the hooks are no list, or `stream` is among the parameters.
    """
    if isinstance(hooks, str | Mapping) or not isinstance(hooks, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequestError(f"{hooks_field} is a list; put the hook in brackets", field=hooks_field)
    if "stream" in parameters:
        raise InvalidRequestError("whether to stream is for the method's name to say", field="stream")
    return {
        "messages": [dict(message) for message in messages],
        "activation_hooks": [hook if isinstance(hook, str) else to_api_format(hook) for hook in hooks],
    } | dict(parameters)
