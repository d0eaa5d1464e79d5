"""Captures and what is made of them: a part of both clients."""

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
    """What both clients do with captures."""

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
            sites: what to capture, in any form of `neuroscope.vocabulary.hooks`.
            model_id: empty: the one loaded first.
            hook_ids: stored hooks to use besides.
            interventions: what to edit, in any form of `neuroscope.interventions`.
            bos: as in `tokenize`.
            stop_at_layer: runs only the layers before this one; None: all, the output head included.
            chunk_budget_bytes: byte budget of one chunk's captures; 0: the server's default.
            resumable: the service keeps the stream for a while, and `resume_capture` has it again. A connection that
                breaks is taken up where it broke, or the service runs the request again, as `retry` says.
            capture_id: name of a resumable capture; empty: one is made up. The same request of the same name is
                answered with what was kept.
            kv_bits, kv_group_size: as in `generate`.
            progress: True shows a bar; a function is called with the bytes received so far.

        Raises:
            UnknownSiteError, UnavailableSiteError, HookNeverFiredError, ContextLengthError
            IdTakenError: another request has that name.
            ResourceExhaustedError: the service has no room to keep the stream.
            NeuroScopeIntegrationError, StreamingError: the connection broke, and with `resumable` it did so in every
                attempt; a `restart_token` has the service run the request again (`resume_capture`).
            ChecksumError: bytes were changed on the way, and so they were when they were asked for again.
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
        """Captures without keeping anything: tensors come as they are made, one for each hook, row and prefill chunk.

        What is longer than memory can be summed up so. Arguments and errors are those of `capture`; a ChecksumError
        says that nothing of this call is to be trusted, so make it again.

        Yields:
            Pieces: `.array` (1, ...), a view that may lie in memory shared with the service, so copy what you keep;
            `.spec` says what of, `.row` of which prompt, `.first_position` from where on.
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
        """What the residual stream before and behind every layer would predict, by the model's own end.

        Args:
            prompt: a text, a conversation or token ids; one.
            top_k: likeliest tokens.
            tokens: further tokens whose log-probabilities and ranks are wanted: ids, or texts of one token each.
            positions: as in `Hook`; None: all.
            model_id: empty: the one loaded first.
            interventions: what to edit meanwhile.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: a text is not one token, or there are several prompts.
            UnavailableSiteError: the model's end cannot be applied by itself; says why.
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
        """What a capture of the same arguments would cost: bytes and chunks exactly, memory within 20 %.

        The service runs a short piece of it to know.

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
