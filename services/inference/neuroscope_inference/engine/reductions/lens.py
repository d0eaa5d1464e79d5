"""What a tensor would predict if it were the last residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.reductions.base import Output, ReducedPiece, Reduction, Shape, TensorPart
from neuroscope_inference.engine.reductions.top_k import largest

Unembed = Callable[[mx.array], mx.array]


class Lens(Reduction):
    """Log-probabilities, tokens, ranks and divergence of the distribution behind the final norm and the unembedding."""

    def __init__(
        self,
        shape: Shape,
        dtype: mx.Dtype,
        wanted: mx.Dtype | None,
        unembed: Unembed,
        message: inference_pb2.LensReduction,
    ) -> None:
        super().__init__(shape, dtype, wanted)
        self._unembed = unembed
        self._count = message.top_k
        self._token_ids = list(message.token_ids)
        self._kl = message.kl
        self._has_normalizer = message.log_normalizer
        self._has_entropy = message.entropy
        self._next_token_ids = list(message.next_token_ids)

    @classmethod
    def from_message(
        cls,
        shape: Shape,
        dtype: mx.Dtype,
        wanted: mx.Dtype | None,
        message: inference_pb2.LensReduction,
        unembed: Unembed,
        vocab_size: int,
        point: Point,
        field: str,
    ) -> Lens:
        """Checks what is asked for.

        Raises:
            InvalidRequestError: the tensor is not as wide as the residual stream, nothing is asked for, or a token is
                not in the vocabulary; logits have no divergence from themselves.
        """
        if shape.axes[-1] == tensor_pb2.AXIS_VOCABULARY:
            unembed = _identity
            if message.kl:
                raise InvalidRequestError(
                    "the logits are the model's own: they diverge from nothing", field=f"{field}.kl"
                )
        elif shape.axes[-1] != tensor_pb2.AXIS_D_MODEL:
            raise InvalidRequestError(
                f"{point} is not as wide as the residual stream: a lens cannot see it", field=field
            )
        if not any(value for _, value in message.ListFields()):
            names = ", ".join(message.DESCRIPTOR.fields_by_name)
            raise InvalidRequestError(f"the lens is asked for nothing: {names}", field=field)
        if message.top_k > vocab_size:
            raise InvalidRequestError(f"the vocabulary has {vocab_size} tokens", field=f"{field}.top_k")
        for name, token_ids in (("token_ids", message.token_ids), ("next_token_ids", message.next_token_ids)):
            for index, token_id in enumerate(token_ids):
                if token_id >= vocab_size:
                    raise InvalidRequestError(
                        f"token {token_id} is not among the {vocab_size} of the vocabulary",
                        field=f"{field}.{name}[{index}]",
                    )
        return cls(shape, dtype, wanted, unembed, message)

    @property
    def needs_logits(self) -> bool:
        """Whether the model's own logits are needed."""
        return self._kl

    def outputs(self) -> list[Output]:
        """What was asked for, in the order of the contract."""
        found: list[Output] = []
        values = self.wanted or mx.float32
        if self._count:
            shape = self.shape.ending_with(tensor_pb2.AXIS_RANK, self._count)
            found += [
                Output(tensor_pb2.REDUCED_LENS_TOP_K, shape, values),
                Output(tensor_pb2.REDUCED_LENS_TOP_K_TOKENS, shape, mx.int32),
            ]
        if self._token_ids:
            shape = self.shape.ending_with(tensor_pb2.AXIS_TOKEN, len(self._token_ids))
            found += [
                Output(tensor_pb2.REDUCED_LENS_LOG_PROBABILITY, shape, values),
                Output(tensor_pb2.REDUCED_LENS_RANK, shape, mx.int32),
            ]
        if self._kl:
            found.append(Output(tensor_pb2.REDUCED_LENS_KL, self.shape.without(-1), values))
        if self._has_normalizer:
            found.append(Output(tensor_pb2.REDUCED_LENS_LOG_NORMALIZER, self.shape.without(-1), values))
        if self._has_entropy:
            found.append(Output(tensor_pb2.REDUCED_LENS_ENTROPY, self.shape.without(-1), values))
        if self._next_token_ids:
            found.append(Output(tensor_pb2.REDUCED_LENS_NEXT_LOG_PROBABILITY, self.shape.without(-1), values))
        return found

    def reduce(self, part: TensorPart | None, row: int, *, ends_step: bool) -> list[ReducedPiece]:
        """The entries of the part."""
        if part is None:
            return []
        logits = self._unembed(part.array.astype(self.dtype)).astype(mx.float32)
        normalizer = mx.logsumexp(logits, axis=-1, keepdims=True)
        seen = logits - normalizer
        found: list[mx.array] = []
        if self._count:
            values, tokens = largest(seen, self._count)
            found += [values, tokens.astype(mx.int32)]
        if self._token_ids:
            chosen = mx.take(seen, mx.array(self._token_ids), axis=-1)
            ranks = [(seen > chosen[..., place : place + 1]).sum(axis=-1) for place in range(len(self._token_ids))]
            found += [chosen, mx.stack(ranks, axis=-1).astype(mx.int32)]
        if self._kl:
            if part.logits is None:
                raise AssertionError("a forward pass without logits has no divergence, which is refused before it runs")
            model = _log_probabilities(part.logits)
            found.append((mx.exp(model) * (model - seen)).sum(axis=-1))
        if self._has_normalizer:
            found.append(normalizer[..., 0])
        if self._has_entropy:
            likely = mx.exp(seen)
            found.append(-mx.where(likely > 0, likely * seen, 0.0).sum(axis=-1))
        pieces = [ReducedPiece(array, part.first_position, part.positions) for array in found]
        if self._next_token_ids and (piece := self._next_token(seen, part)) is not None:
            pieces.append(piece)
        return [
            replace(piece, array=piece.array.astype(output.dtype))
            for piece, output in zip(pieces, self.outputs(), strict=False)  # the last output may have no piece
        ]

    def _next_token(self, seen: mx.array, part: TensorPart) -> ReducedPiece | None:
        """What each position gives to the token that follows it, as far as the list goes."""
        everywhere = part.positions or range(part.first_position, part.first_position + seen.shape[1])
        places = [place for place, position in enumerate(everywhere) if position < len(self._next_token_ids)]
        if not places:
            return None
        positions = [everywhere[place] for place in places]
        wanted = mx.array([self._next_token_ids[position] for position in positions])
        chosen = mx.take_along_axis(mx.take(seen, mx.array(places), axis=1), wanted[None, :, None], axis=-1)
        return ReducedPiece(chosen[..., 0], positions[0], tuple(positions) if part.positions else ())


def _identity(logits: mx.array) -> mx.array:
    return logits


def _log_probabilities(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
