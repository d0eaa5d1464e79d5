"""The client for scripts and notebooks. `neuroscope.aio` has the same one for event loops.

    with Client() as client:
        client.load_model("models/neuroscope-tiny")
        cache = client.capture("The capital of France is", ["resid_post", "attention_pattern.3"])
        cache["resid_post", 5]

Calls about models are in `model_calls`, about kept streams in `kept_calls`, about sweeps in `experiments.calls`, about
weights in `weights.calls`, about datasets in `datasets.calls`; how a call is made is in `calling`.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, SupportsIndex

from numpy.typing import ArrayLike
from opentelemetry import trace

from neuroscope import layer_predictions, requests, telemetry
from neuroscope.cache import ActivationCache
from neuroscope.datasets.calls import DatasetCalls
from neuroscope.dictionaries.calls import Dictionaries
from neuroscope.endpoint import DEFAULT_TARGET
from neuroscope.experiments.calls import ExperimentCalls
from neuroscope.frames import TensorPiece
from neuroscope.generation import Generation
from neuroscope.hooks import HookLike
from neuroscope.interventions import InterventionLike
from neuroscope.kept_calls import KeptCalls
from neuroscope.layer_predictions import LayerPredictions
from neuroscope.progress import ByteListener
from neuroscope.prompts import PromptLike
from neuroscope.recovery import Recovery, Resumption
from neuroscope.stream import StreamState
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import telemetry_pb2
from neuroscope.weights.calls import WeightCalls

__all__ = ["DEFAULT_TARGET", "Client"]


class Client(ExperimentCalls, WeightCalls, KeptCalls, DatasetCalls):
    """Calls an inference service. Thread-safe; one client for the life of a program is best.

    Args:
        target: `host:port`, `unix:path`, or `local` for the engine in this process.
        transport: takes the place of the target's, for tests and other carriers.
        timeout_s: deadline of calls that do not stream; None: none.
        tls: encrypts the connection; True: with the authorities that gRPC brings along.
        token: what the service asks of its callers. Without TLS it is sent to this host only.
        retry: how often what is safe to try again is tried again; None: the defaults of `Retry`.
        shared_memory: takes large tensors through memory that is shared with the service, where it is on this host.

    Every method raises errors of `neuroscope.errors`; NeuroScopeIntegrationError where no service answers.
    """

    @property
    def dictionaries(self) -> Dictionaries:
        """Sparse autoencoders and transcoders of the loaded models; see `neuroscope.dictionaries`."""
        return Dictionaries(self._unary, self._follow, self.attribute)

    # Hooks kept by the service.

    def register_hooks(self, hooks: Sequence[HookLike], model_id: str = "") -> list[str]:
        """Stores hooks under their ids for later requests (`hook_ids=`); all of them or none.

        Args:
            hooks: in any form of `neuroscope.hooks`.
            model_id: a loaded model to check layers and points against; empty: only the vocabulary is checked.

        Returns:
            The ids, in order; a REST hook object that captures both sides gives two.

        Raises:
            UnknownSiteError, UnavailableSiteError, IdTakenError
        """
        return self._unary(requests.register_hooks(hooks, model_id))

    def hooks(self) -> list[pb.HookSpec]:
        """The stored hooks."""
        return self._unary(requests.list_hooks())

    def clear_hooks(self, ids: Iterable[str] = ()) -> list[str]:
        """Removes stored hooks, all if none is named, and returns the ids of those removed."""
        return self._unary(requests.clear_hooks(ids))

    # Running the model.

    def generate(
        self,
        prompt: PromptLike,
        *,
        hooks: Sequence[HookLike] = (),
        hook_ids: Iterable[str] = (),
        interventions: Sequence[InterventionLike] = (),
        model_id: str = "",
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: str | Iterable[str] = (),
        stop_token_ids: Iterable[SupportsIndex] = (),
        ignore_eos: bool = False,
        top_logprobs: int = 0,
        n: int = 1,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        penalty_context_size: int = 0,
        penalize_generated_only: bool = False,
        logit_bias: Mapping[int, float] | None = None,
        bos: bool | None = None,
        max_steps_ahead: int = 0,
        chunk_budget_bytes: int = 0,
        generation_id: str = "",
        resumable: bool = False,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        keep: bool = True,
        auto_advance: bool = True,
    ) -> Generation:
        """Generates text while activations are captured and edited.

        Args:
            prompt: a text, a conversation, token ids, or a list of these; each entry is a row, or `n`.
            hooks: what to capture, in any form of `neuroscope.hooks`.
            hook_ids: stored hooks to use besides.
            interventions: what to edit, in any form of `neuroscope.interventions`.
            model_id: empty: the one loaded first.
            max_tokens: most tokens to generate in each row; None: the server's default.
            temperature: 0: always the likeliest token.
            top_p: keeps the smallest set of tokens whose probability reaches this.
            top_k: keeps this many likeliest tokens; 0: all.
            min_p: keeps tokens with at least this share of the likeliest token's probability.
            seed: of the draws; the same seed gives the same text. None: drawn by the server, see `started.seed`.
            stop: texts that end a row; they are not part of the output.
            stop_token_ids: further tokens that end a row.
            ignore_eos: goes on after end-of-sequence tokens.
            top_logprobs: likeliest alternatives to report for each token.
            n: rows of each prompt; row `n * prompt + i` of the request draws with the seed `seed + i`.
            presence_penalty: subtracted from the logits of tokens that the row has already.
            frequency_penalty: subtracted from them as often as the row has them.
            repetition_penalty: what their logits are divided by, or multiplied with where they are negative.
            penalty_context_size: how many of the row's last tokens, prompt and generated, the penalties look at;
                0: all.
            penalize_generated_only: the penalties look at generated tokens alone, as vLLM's presence and frequency do.
            logit_bias: what is added to the logits of tokens, by id, before the penalties.
            bos: as in `tokenize`.
            max_steps_ahead: steps the engine may run ahead of credit; 0: as far as buffers allow, 1: lockstep.
            chunk_budget_bytes: byte budget of one prefill chunk's captures; 0: the server's default.
            generation_id: name for `advance` and `steer`; empty: one is made up, see `started.stream_id`.
            resumable: the service keeps the stream for a while; `resume_capture` with the generation's id has it again.
                A connection that breaks is taken up where it broke, if the service had finished.
            kv_bits: keeps all keys and values in so many bits: 2, 3, 4, 5, 6 or 8; None: as they are. What is captured
                of them is then what attention makes of those bits.
            kv_group_size: numbers that share a scale: 32, 64 or 128.
            keep: collects all tensors in `Generation.cache`; without it they live as long as their token.
            auto_advance: with `max_steps_ahead`, asking for the next token gives the credit it needs. Without it,
                `Generation.advance` alone does.

        Returns:
            An iterator of `GeneratedToken`; the call has begun. Close it, or use `with`, to stop early.
        """
        if resumable:
            generation_id = generation_id or uuid.uuid4().hex
        call = requests.generate(
            prompt,
            hooks=hooks,
            hook_ids=hook_ids,
            interventions=interventions,
            model_id=model_id,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed,
            stop=stop,
            stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
            top_logprobs=top_logprobs,
            n=n,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            penalty_context_size=penalty_context_size,
            penalize_generated_only=penalize_generated_only,
            logit_bias=logit_bias,
            bos=bos,
            max_steps_ahead=max_steps_ahead,
            chunk_budget_bytes=chunk_budget_bytes,
            generation_id=generation_id,
            resumable=resumable,
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
        )
        span = telemetry.tracer().start_span(f"neuroscope.{call.name}")
        resumption = Resumption(call, self._retry) if resumable else None
        with trace.use_span(span):
            events = self._transport.stream(call.rpc, call.request)
        return Generation(
            events,
            StreamState(keep=keep, steps_ahead=max_steps_ahead or 1),
            span,
            self.advance,
            self.steer,
            auto_advance=auto_advance and max_steps_ahead > 0,
            resumption=resumption,
            open_stream=lambda again: self._transport.stream(again.rpc, again.request),
        )

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
    ) -> ActivationCache:
        """Runs prompts once, without sampling, and returns what was captured.

        Args:
            prompt: a text, a conversation, token ids, or a list of these; each entry is a row.
            sites: what to capture, in any form of `neuroscope.hooks`.
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
        return self._captured(Recovery(call, self._retry, capture_id if resumable else ""), "capturing", progress)

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
    ) -> Generator[TensorPiece, None, None]:
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
        with self._span("capture_pieces"), closing(self._transport.stream(call.rpc, call.request)) as events:
            for event in events:
                state.feed(event)
                yield from fresh
                fresh.clear()
        state.finish()

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
    ) -> LayerPredictions:
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
        return self._follow(
            layer_predictions.steps(
                prompt,
                top_k=top_k,
                tokens=tokens,
                positions=positions,
                model_id=model_id,
                interventions=interventions,
                bos=bos,
            )
        )

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
    ) -> pb.EstimateCaptureResponse:
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
        return self._unary(requests.estimate_capture(captured))

    def advance(self, generation_id: str, steps: int = 1) -> int:
        """Gives a generation with `max_steps_ahead` leave to compute further steps; returns those granted so far.

        Raises:
            UnknownIdError: no generation of that id is running.
        """
        return self._unary(requests.advance(generation_id, steps))

    def steer(self, generation_id: str, interventions: Sequence[InterventionLike]) -> int:
        """Replaces the interventions of a running generation; none: it goes on unedited.

        Returns:
            The first step that they govern.

        Raises:
            UnknownIdError: no generation of that id is running.
        """
        return self._unary(requests.steer(generation_id, interventions))

    def put_tensor(self, tensor: ArrayLike, *, time_to_live_s: float | None = None) -> str:
        """Uploads a tensor that interventions refer to: a direction, a donor, a reference.

        Args:
            tensor: a numpy array, or what numpy makes one of. float64 is sent as float32.
            time_to_live_s: how long the service keeps it; None: the service's default.

        Returns:
            Its id, the same for the same content, for `neuroscope.tensor(id)`.

        Raises:
            DataConversionError: it holds NaN, infinity or no numbers.
            ResourceExhaustedError: the service keeps too many bytes already.
        """
        return self._upload(requests.put_tensor(tensor, time_to_live_s))

    def workload(self) -> telemetry_pb2.GetWorkloadResponse:
        """What the service is busy with: streams, rows, tokens and bytes so far, memory."""
        return self._unary(requests.workload())

    def trace(self, trace_id: str) -> bytes:
        """The service's spans of a recent trace, a serialised `opentelemetry.proto.trace.v1.TracesData`.

        Raises:
            UnknownIdError: the service keeps no span of that trace.
        """
        return self._unary(requests.trace(trace_id))
