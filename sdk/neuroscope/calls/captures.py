"""Capture methods of both clients."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from neuroscope.activations.cache import ActivationCache
from neuroscope.activations.layer_predictions import LayerPredictions
from neuroscope.activations.stream import StreamState
from neuroscope.base_client.call import Call, CallFlow, CaptureStream, Stream
from neuroscope.base_client.client_method import client_method, client_stream
from neuroscope.base_client.progress import ByteListener
from neuroscope.calls import requests
from neuroscope.calls.logit_lens import logit_lens
from neuroscope.interventions import InterventionLike
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import HookLike
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.wire.codec import Event
from neuroscope.wire.frames import TensorPiece


class CaptureCalls:
    """Capture methods."""

    @client_method
    def capture(
        self,
        prompt: PromptLike,
        sites: Sequence[HookLike],
        *,
        model_id: str = "",
        hook_ids: Iterable[str] = (),
        interventions: Sequence[InterventionLike] = (),
        bos: bool | None = None,
        stop_at_layer: int | None = None,
        chunk_budget_bytes: int = 0,
        resumable: bool = False,
        capture_id: str = "",
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        progress: ByteListener = False,
    ) -> CallFlow[ActivationCache]:
        """Runs prompts once, without sampling, and returns what was captured.

        Args:
            prompt: a text, a conversation, token ids, or a list of these; each entry is a row.
            sites: hooks, in any form of `neuroscope.vocabulary.hooks`.
            model_id: empty: the one loaded first.
            hook_ids: further hooks that are stored at the service.
            interventions: edits, in any form of `neuroscope.interventions`.
            bos: as in `tokenize`.
            stop_at_layer: runs only the layers before this one; None: all, the output head included.
            chunk_budget_bytes: byte budget of one chunk's captures; 0: the server's default.
            resumable: the service stores the stream for a while, for `resume_capture`. If the connection breaks, the
                client resumes the stream, or has the service run the request again, as `retry` allows.
            capture_id: id of a resumable capture; empty: generated. A repeated request with the same id returns the
                stored stream.
            kv_bits, kv_group_size: as in `generate`.
            progress: True shows a bar; a function is called with the bytes received so far.

        Raises:
            UnknownSiteError, UnavailableSiteError, HookNeverFiredError, ContextLengthError
            IdTakenError: another request has that id.
            ResourceExhaustedError: the service has no room to store the stream.
            NeuroScopeIntegrationError, StreamingError: the connection broke; with `resumable` all retries failed too.
                Pass a `restart_token` of the error to `resume_capture` to run the request again.
            ChecksumError: bytes were corrupted in transit, also in the retry.
        """
        if resumable:
            capture_id = capture_id or uuid.uuid4().hex
        call = requests.capture(
            prompt,
            sites,
            model_id=model_id,
            hook_ids=hook_ids,
            interventions=interventions,
            bos=bos,
            stop_at_layer=stop_at_layer,
            chunk_budget_bytes=chunk_budget_bytes,
            resumable=resumable,
            capture_id=capture_id,
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
        )
        return (yield from CaptureStream(call, capture_id if resumable else "", progress=progress))

    @client_stream
    def capture_pieces(
        self,
        prompt: PromptLike,
        sites: Sequence[HookLike],
        *,
        model_id: str = "",
        hook_ids: Iterable[str] = (),
        interventions: Sequence[InterventionLike] = (),
        bos: bool | None = None,
        stop_at_layer: int | None = None,
        chunk_budget_bytes: int = 0,
    ) -> Stream[TensorPiece]:
        """Captures without storing: yields tensors as they are computed, one per hook, row and prefill chunk.

        Use it for captures that exceed memory. Arguments and errors are those of `capture`. After a ChecksumError,
        discard all results of the call and repeat it.

        Yields:
            Pieces with `.array` (1, ...), a view that may be in memory shared with the service (copy it to keep it),
            `.spec`, the `.row` of the prompt and `.first_position`.
        """
        call = requests.capture(
            prompt,
            sites,
            model_id=model_id,
            hook_ids=hook_ids,
            interventions=interventions,
            bos=bos,
            stop_at_layer=stop_at_layer,
            chunk_budget_bytes=chunk_budget_bytes,
        )
        fresh: list[TensorPiece] = []
        state = StreamState(keep=False, take=fresh.append)

        def take(event: Event) -> list[TensorPiece]:
            fresh.clear()
            state.feed(event)
            return fresh

        return Stream("capture_pieces", call.rpc, call.request, take, state.finish)

    @client_method
    def logit_lens(
        self,
        prompt: PromptLike,
        *,
        top_k: int = 5,
        tokens: Sequence[str | SupportsIndex] = (),
        positions: Any = None,
        model_id: str = "",
        interventions: Sequence[InterventionLike] = (),
        bos: bool | None = None,
    ) -> CallFlow[LayerPredictions]:
        """Predictions from the residual stream before and after every layer, by the model's final norm and unembedding.

        Args:
            prompt: a text, a conversation or token ids; one.
            top_k: number of top tokens.
            tokens: further tokens whose log-probabilities and ranks are returned: ids, or texts of one token each.
            positions: as in `Hook`; None: all.
            model_id: empty: the one loaded first.
            interventions: edits during the forward pass.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: a text is not one token, or there are several prompts.
            UnavailableSiteError: the final norm and unembedding cannot be applied alone; the message says why.
        """
        return logit_lens(
            prompt,
            top_k=top_k,
            tokens=tokens,
            positions=positions,
            model_id=model_id,
            interventions=interventions,
            bos=bos,
        )

    @client_method
    def estimate_capture(
        self,
        prompt: PromptLike,
        sites: Sequence[HookLike],
        *,
        model_id: str = "",
        hook_ids: Iterable[str] = (),
        bos: bool | None = None,
        stop_at_layer: int | None = None,
        chunk_budget_bytes: int = 0,
        interventions: Sequence[InterventionLike] = (),
        kv_bits: int | None = None,
        kv_group_size: int = 64,
    ) -> Call[pb.EstimateCaptureResponse]:
        """The cost of a capture with the same arguments: exact bytes and chunks, memory within 20 %.

        The service runs a short part of the capture to measure it.

        Raises:
            UnknownSiteError, UnavailableSiteError, ContextLengthError
        """
        captured = requests.capture(
            prompt,
            sites,
            model_id=model_id,
            hook_ids=hook_ids,
            bos=bos,
            stop_at_layer=stop_at_layer,
            chunk_budget_bytes=chunk_budget_bytes,
            interventions=interventions,
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
        )
        return requests.estimate_capture(captured)
