"""The REST interface as the demo uses it: a chat completion with activations, and a trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import xxhash
from opentelemetry.trace import SpanKind

from neuroscope.errors import MLXIntegrationError, NeuroScopeIntegrationError, UnknownIdError
from neuroscope.tracing import telemetry
from neuroscope.vocabulary.tensors import Array

COMPLETIONS = "/v1/chat/completions/with_activations"
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class RestActivation:
    """One activation object of an answer."""

    component: str
    layer_name: str
    array: Array
    """float32"""

    def checksum(self, dtype: np.dtype[np.generic]) -> int:
        """XXH3-64 of the bytes in the type in which it was captured."""
        return xxhash.xxh3_64_intdigest(np.ascontiguousarray(self.array.astype(dtype)).tobytes())


@dataclass(frozen=True, slots=True)
class RestCompletion:
    """An answer."""

    text: str
    activations: Mapping[str, Sequence[RestActivation]]
    """By hook id, in step order."""
    length_bytes: int
    """Bytes of its JSON."""


def complete(url: str, body: Mapping[str, Any]) -> RestCompletion:
    """A chat completion with activations.

    Args:
        url: of the gateway.
        body: the request, with `activation_hooks`.

    Raises:
        MLXIntegrationError: the gateway refuses it.
        NeuroScopeIntegrationError: no gateway generations.
    """
    with telemetry.tracer().start_as_current_span(f"POST {COMPLETIONS}", kind=SpanKind.CLIENT) as span:
        request = Request(url + COMPLETIONS, json.dumps(body).encode(), {"Content-Type": "application/json"})
        raw = _send(request)
        span.set_attribute(telemetry.BYTES, len(raw))
    answer = json.loads(raw)
    activations = {
        hook_id: [_activation(entry) for entry in entries] for hook_id, entries in answer["activations"].items()
    }
    return RestCompletion(answer["choices"][0]["message"]["content"], activations, len(raw))


def trace(url: str, trace_id: str) -> bytes:
    """The spans of a trace, of the gateway and the inference service behind it.

    Raises:
        UnknownIdError: neither keeps the trace.
    """
    try:
        return _send(Request(f"{url}/v1/traces/{trace_id}"))
    except NeuroScopeIntegrationError:
        raise
    except MLXIntegrationError as error:
        raise UnknownIdError(error.message, field="trace_id") from None


def _send(request: Request) -> bytes:
    for name, value in telemetry.inject():
        request.add_header(name, value)
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as response:
            return response.read()
    except HTTPError as error:
        with error:
            raise MLXIntegrationError(f"the gateway answers {error.code}: {_message(error.read())}") from None
    except (URLError, OSError) as error:
        raise NeuroScopeIntegrationError(f"no gateway answers at {request.full_url}: {error}") from None


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode("utf-8", "replace")[:200]


def _activation(entry: Mapping[str, Any]) -> RestActivation:
    array = np.asarray(entry["data"], np.float32).reshape(entry["shape"])
    return RestActivation(entry["component"], entry["layer_name"], array)
