"""What the demo verifies: three ways to the same numbers, a lens that ends in the model's own prediction, one trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroscope.activations.cache import ActivationCache
from neuroscope.activations.lens import LogitLens
from neuroscope.activations.stream import GeneratedToken
from neuroscope.cli.demo.rest import RestActivation
from neuroscope.tracing import span_tree
from neuroscope.tracing.waterfall import format_bytes
from neuroscope.vocabulary.sites import Point
from neuroscope.wire.frames import TensorPiece

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}
"""Largest relative error between prefill with decode steps and one forward pass, by type of the activations."""
LENS_TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}
"""Largest difference of log-probabilities between lens and model."""


@dataclass(frozen=True, slots=True)
class Verification:
    """One claim of the demo, and whether it holds."""

    claim: str
    passed: bool
    detail: str
    """The figures."""


def compare_pieces(
    grpc: Mapping[str, Sequence[TensorPiece]], rest: Mapping[str, Sequence[RestActivation]]
) -> Verification:
    """Whether both interfaces gave the same tensors, bit for bit, in the same pieces."""
    claim = "gRPC and REST carry the same bits"
    if set(grpc) != set(rest):
        return Verification(claim, False, f"hooks differ: {sorted(set(grpc) ^ set(rest))}")
    count = length = 0
    for hook_id, pieces in grpc.items():
        others = rest[hook_id]
        if len(pieces) != len(others):
            return Verification(claim, False, f"{hook_id}: {len(pieces)} pieces over gRPC, {len(others)} over REST")
        for index, (piece, other) in enumerate(zip(pieces, others, strict=True)):
            if piece.array.shape != other.array.shape:
                detail = f"{hook_id}, piece {index}: {piece.array.shape} over gRPC, {other.array.shape} over REST"
                return Verification(claim, False, detail)
            if other.checksum(piece.array.dtype) != piece.checksum:
                return Verification(claim, False, f"{hook_id}, piece {index}: the checksums differ")
            count += 1
            length += piece.array.nbytes
    if not count:
        return Verification(claim, False, "nothing was captured")
    return Verification(claim, True, f"{count} tensors, {format_bytes(length)}: every XXH3-64 equal")


def compare_with_one_pass(steps: ActivationCache, whole: ActivationCache, dtype: str) -> Verification:
    """Whether a prefill and decode steps gave what one forward pass over all tokens gives.

    Args:
        steps: of the generation.
        whole: of the capture over the same tokens.
        dtype: type of the activations.
    """
    allowed = TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
    claim = "token by token equals one forward pass"
    errors: dict[Point, float] = {}
    for point in steps.points:
        a, b = (cache[point].astype(np.float64) for cache in (steps, whole))
        if a.shape != b.shape:
            return Verification(claim, False, f"{point}: {a.shape} token by token, {b.shape} in one pass")
        errors[point] = float(np.abs(a - b).max() / (np.abs(b).max() or 1.0))
    if not errors:
        return Verification(claim, False, "nothing was captured")
    worst = max(errors, key=lambda point: np.nan_to_num(errors[point], nan=np.inf))
    detail = f"largest relative error {errors[worst]:.1e} at {worst}, allowed {allowed:.0e}"
    return Verification(claim, errors[worst] <= allowed, detail)


def check_lens(lens: LogitLens, cache: ActivationCache, tokens: Sequence[GeneratedToken], dtype: str) -> Verification:
    """Whether the last layer's lens predicts, at every step, the token that the model chose and its probability.

    Args:
        lens: of the model.
        cache: of the generation, with resid_post of the last layer.
        tokens: generated at temperature 0.
        dtype: type of the activations.
    """
    claim = "the last layer's lens is the model's prediction"
    residual = cache["resid_post", -1][0, -len(tokens) :]  # (step, d_model)
    logs = lens.log_probabilities(residual)
    wrong = [token.step for token, row in zip(tokens, logs, strict=True) if int(row.argmax()) != token.token_id]
    worst = max(abs(float(row[token.token_id]) - token.logprob) for token, row in zip(tokens, logs, strict=True))
    if wrong:
        return Verification(claim, False, f"another token in steps {wrong}")
    allowed = LENS_TOLERANCES.get(dtype, LENS_TOLERANCES["bfloat16"])
    detail = f"{len(tokens)} of {len(tokens)} tokens, log-probabilities within {worst:.1e}"
    return Verification(claim, worst <= allowed, detail)


def check_single_trace(traces: TracesData, services: Sequence[str]) -> Verification:
    """Whether the spans of all services make one trace without a gap."""
    claim = "client, gateway and inference are one trace"
    roots = span_tree.build_tree(traces)
    spans = [span for root in roots for span in root.walk()]
    missing = set(services) - {span.service for span in spans}
    if missing:
        return Verification(claim, False, f"no span of {', '.join(sorted(missing))}")
    if len(roots) != 1:
        return Verification(claim, False, f"{len(roots)} roots: {', '.join(root.name for root in roots)}")
    return Verification(claim, True, f"{len(spans)} spans, no orphan")
