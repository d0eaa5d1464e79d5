"""Drawing a token from logits: a key per seed, prompt and step, so that a draw depends on nothing else.

mlx-lm's samplers share one global random state and filter before temperature; here temperature comes first, then top-k,
top-p and min-p, the order of Hugging Face and vLLM.
"""

from __future__ import annotations

import math
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import xxhash

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.penalties import Penalties, check_range

DEFAULT_MAX_TOKENS = 256
MAX_TOP_LOGPROBS = 100
_MAX_STOP_TEXTS = 16
_SEEDS = 2**64
_LOWEST_TEMPERATURE = 1e-30  # float32 has no smaller ones to divide by; it is greedy long before


@dataclass(frozen=True, slots=True)
class Sampler:
    """Checked sampling parameters of a request."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]
    ignore_eos: bool
    top_logprobs: int
    rows_per_prompt: int
    penalties: Penalties

    @classmethod
    def from_message(cls, message: pb.Sampling) -> Sampler:
        """Checks every field.

        Raises:
            InvalidRequestError: one is out of its range; names it.
        """
        temperature = check_range(message.temperature, "temperature", 0, 100)
        top_p = check_range(message.top_p if message.HasField("top_p") else 1.0, "top_p", 0, 1)
        min_p = check_range(message.min_p, "min_p", 0, 1)
        if top_p == 0:
            raise InvalidRequestError("sampling.top_p is above 0 and at most 1", field="sampling.top_p")
        if message.top_logprobs > MAX_TOP_LOGPROBS:
            raise InvalidRequestError(
                f"sampling.top_logprobs is at most {MAX_TOP_LOGPROBS}", field="sampling.top_logprobs"
            )
        if len(message.stop) > _MAX_STOP_TEXTS:
            raise InvalidRequestError(f"at most {_MAX_STOP_TEXTS} stop texts", field="sampling.stop")
        for index, text in enumerate(message.stop):
            if not text:
                raise InvalidRequestError("a stop text is empty", field=f"sampling.stop[{index}]")
        return cls(
            max_tokens=message.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=temperature,
            top_p=top_p,
            top_k=message.top_k,
            min_p=min_p,
            seed=message.seed if message.HasField("seed") else secrets.randbits(63),
            stop=tuple(message.stop),
            stop_token_ids=frozenset(message.stop_token_ids),
            ignore_eos=message.ignore_eos,
            top_logprobs=message.top_logprobs,
            rows_per_prompt=message.rows_per_prompt or 1,
            penalties=Penalties.from_message(message),
        )

    def draw(
        self,
        logits: mx.array,
        row: int,
        step: int,
        tokens: mx.array | None = None,
        allowed: mx.array | None = None,
    ) -> Draw:
        """Draws from the logits of one row; everything stays lazy.

        Args:
            logits: (1, vocab).
            row: of the request.
            step: whose logits these are.
            tokens: (n,), those that penalties count; None where none do.
            allowed: (vocab,), bool, the tokens that a constraint allows; None without one. Log-probabilities are those
                of the model without it.
        """
        logits = logits.astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        changed = self.penalties.apply(logits, tokens)
        if allowed is not None:
            changed = mx.where(allowed, changed, -math.inf)
        token = mx.argmax(changed, axis=-1) if self.temperature == 0 else self._sample(changed, row, step)
        logprob = mx.take_along_axis(logprobs, token[:, None], axis=-1)
        if not self.top_logprobs:
            return Draw(token, logprob)
        best = mx.argsort(-logprobs, axis=-1)[:, : self.top_logprobs]
        return Draw(token, logprob, best, mx.take_along_axis(logprobs, best, axis=-1))

    def _sample(self, logits: mx.array, row: int, step: int) -> mx.array:
        # Differences from the likeliest: near zero a temperature makes zeros and -inf of them, never inf - inf.
        tempered = (logits - logits.max(axis=-1, keepdims=True)) / max(self.temperature, _LOWEST_TEMPERATURE)
        order = mx.argsort(-tempered, axis=-1)
        ranked = mx.take_along_axis(tempered, order, axis=-1)
        if 0 < self.top_k < ranked.shape[-1]:
            ranked = mx.where(mx.arange(ranked.shape[-1]) < self.top_k, ranked, -math.inf)
        if self.top_p < 1:
            probabilities = mx.softmax(ranked, axis=-1, precise=True)
            before = mx.cumsum(probabilities, axis=-1) - probabilities
            ranked = mx.where(before < self.top_p, ranked, -math.inf)
        if self.min_p > 0:
            ranked = mx.where(ranked >= ranked[:, :1] + math.log(self.min_p), ranked, -math.inf)
        prompt, index = divmod(row, self.rows_per_prompt)
        choice = mx.random.categorical(ranked, axis=-1, key=_key((self.seed + index) % _SEEDS, prompt, step))
        return mx.take_along_axis(order, choice[:, None], axis=-1)[:, 0]


@dataclass(frozen=True, slots=True)
class Draw:
    """A drawn token and its log-probability, lazy: (1,), (1, 1), and the likeliest alternatives (1, k) if asked for."""

    token: mx.array
    logprob: mx.array
    top_tokens: mx.array | None = None
    top_logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays, to evaluate together."""
        return [x for x in (self.token, self.logprob, self.top_tokens, self.top_logprobs) if x is not None]

    def alternatives(self) -> Iterator[tuple[int, float]]:
        """The likeliest tokens and their log-probabilities, once evaluated; none if none were asked for."""
        if self.top_tokens is None or self.top_logprobs is None:
            return
        tokens, logprobs = cast(list[list[int]], self.top_tokens.tolist()), self.top_logprobs.tolist()
        yield from zip(tokens[0], cast(list[list[float]], logprobs)[0], strict=True)


def _key(seed: int, prompt: int, step: int) -> mx.array:
    return mx.random.key(xxhash.xxh3_64_intdigest(struct.pack("<QQQ", seed, prompt, step)) >> 1)
