"""The generation of one row: prefill chunks, then a step at a time, the next one computed while one is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from neuroscope import telemetry
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.arrays import number
from neuroscope_inference.engine.forward import Cache, Forward
from neuroscope_inference.engine.reads import Pending, Span, StepResult
from neuroscope_inference.engine.sampling import Draw, Sampler
from neuroscope_inference.engine.stopping import StopMatcher


class Row:
    """One prompt of a generation.

    Args:
        forward: runs the model.
        sampler: draws tokens.
        row: which prompt it is.
        prompt: its token ids.
        may_compute: whether a step may be computed already.
    """

    def __init__(
        self, forward: Forward, sampler: Sampler, row: int, prompt: Sequence[int], may_compute: Callable[[int], bool]
    ) -> None:
        self._forward = forward
        self._sampler = sampler
        self._row = row
        self._prompt = prompt
        self._may_compute = may_compute
        self._cache: Cache = make_prompt_cache(forward.model.network)
        self._detokenizer = forward.model.detokenizer()
        self._matcher = StopMatcher(sampler.stop)
        description = forward.model.description
        eos: frozenset[int] = frozenset() if sampler.ignore_eos else frozenset(description.eos_token_ids)
        self._ends = eos | sampler.stop_token_ids
        room = description.context_length - len(prompt) + 1
        self._max_tokens = min(sampler.max_tokens, room) if description.context_length else sampler.max_tokens

    def steps(self) -> Iterator[StepResult]:
        """Results of the prefill's chunks, the last of them with the first token; then one with a token a step."""
        *body, last = self._forward.chunks(self._row, len(self._prompt), needs_logits=True)
        for span in body:
            yield self._forward.chunk(self._prompt, span, self._cache)
        pending, draw = self._forward.prefill(self._prompt, last, self._cache, self._sampler)
        step = 0
        while draw is not None:
            ahead = None
            if step + 1 < self._max_tokens and self._may_compute(step + 1):
                ahead = self._launch(draw, step + 1)
            result = self._finish(step, pending, draw)
            pending = []  # only the result holds their memory: a tensor is free as soon as it has left
            yield result
            if result.token is None or result.token.finish_reason:
                return
            step += 1
            pending, draw = ahead if ahead is not None else self._launch(draw, step)

    def _launch(self, draw: Draw, step: int) -> tuple[list[Pending], Draw]:
        """Starts the forward pass over a drawn token, which need not be known yet."""
        length = len(self._prompt)
        span = Span(self._row, step, length + step - 1, 1, length)
        pending, logits = self._forward.build(draw.token[:, None], span, self._cache)
        if logits is None:
            raise AssertionError("a generation runs all layers")
        following = self._sampler.draw(logits[:, -1], self._row, step)
        mx.async_eval([p.array for p in pending], following.arrays)
        return pending, following

    def _finish(self, step: int, pending: list[Pending], draw: Draw) -> StepResult:
        """Waits for a step and puts its token into words."""
        started = time.perf_counter()
        name = "decode" if step else "sample"
        with telemetry.tracer().start_as_current_span(name, context=self._forward.context) as recorded:
            mx.eval([p.array for p in pending], draw.arrays)
            token = self._token(step, draw)
            recorded.set_attribute(telemetry.STEP, step)
            recorded.set_attribute(telemetry.TOKENS, 1)
            recorded.set_attribute(telemetry.BYTES, sum(p.array.nbytes for p in pending))
        if step:
            self._forward.timing.decode_s += time.perf_counter() - started
        return StepResult.of(step, pending, token)

    def _token(self, step: int, draw: Draw) -> pb.TokenEvent:
        token_id = int(number(draw.token))
        event = pb.TokenEvent(row=self._row, step=step, token_id=token_id, logprob=number(draw.logprob))
        for alternative, logprob in draw.alternatives():
            text = self._forward.model.text_of(alternative)
            event.top_logprobs.add(token_id=alternative, text=text, logprob=logprob)
        is_end, is_last = token_id in self._ends, step + 1 >= self._max_tokens
        if not is_end:
            self._detokenizer.add_token(token_id)
        if is_end or is_last:
            self._detokenizer.finalize()
        event.text, is_stopped = self._matcher.feed(self._detokenizer.last_segment)
        if (is_end or is_last) and not is_stopped:
            event.text += self._matcher.flush()
        if is_end or is_stopped:
            event.finish_reason = pb.FINISH_REASON_STOP
        elif is_last:
            event.finish_reason = pb.FINISH_REASON_LENGTH
        return event
