"""The self-test at load: hooked logits equal plain ones bit for bit, and points satisfy what defines them.

Two forward passes of eight tokens. A point whose identity fails is withdrawn, with the numbers as the reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from neuroscope.errors import ModelUnsupportedError
from neuroscope.sites import COMPONENTS, Point
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope_inference.engine.arrays import number
from neuroscope_inference.engine.layout import Block, Layout
from neuroscope_inference.engine.tap import Tap

TOKEN_COUNT = 8
TOLERANCES = {mx.float32: 1e-5, mx.float16: 1e-2, mx.bfloat16: 5e-2}

Seen = dict[Point, mx.array]
Check = tuple[str, mx.array, mx.array, tuple[str, ...]]
"""Name of an identity, its two sides, and the components that it proves."""


def run(layout: Layout, vocab_size: int) -> inference_pb2.SelfTest:
    """Hooks the model and proves its points.

    Raises:
        ModelUnsupportedError: the model does not run, or hooks change its logits.
    """
    started = time.perf_counter()
    tokens = mx.array([[(7 * index + 3) % vocab_size for index in range(TOKEN_COUNT)]])
    plain = _forward(layout.model, tokens)
    mx.eval(plain)
    layout.hook()
    tap = Tap([True] * len(layout.states))
    with layout.switch.reading(tap):
        hooked = _forward(layout.model, tokens)
    mx.eval(hooked, *tap.seen.values())
    identical = bool(mx.array_equal(plain, hooked, equal_nan=True).item())
    if not identical:
        raise ModelUnsupportedError("hooks change this model's logits; it cannot be studied", field="model_path")
    seen: Seen = {layout.states[index].point: value for index, value in tap.seen.items()}
    _accept(layout, seen)
    identities = _prove(layout, seen)
    return inference_pb2.SelfTest(
        logits_identical=identical,
        identities=identities,
        token_count=TOKEN_COUNT,
        duration_ms=1e3 * (time.perf_counter() - started),
    )


def _forward(model: nn.Module, tokens: mx.array) -> mx.array:
    call: Any = model
    return call(tokens, cache=make_prompt_cache(model))


def _accept(layout: Layout, seen: Seen) -> None:
    """Accepts what was seen in the shape that its component promises."""
    for point, value in seen.items():
        state = layout.state(point)
        axes = COMPONENTS[point.component].axes
        if value.ndim != len(axes) or value.shape[axes.index(tensor_pb2.AXIS_POSITION)] != TOKEN_COUNT:
            state.reason = f"the model passes an array of shape {tuple(value.shape)} here, not one of {len(axes)} axes"
            continue
        state.reason, state.dtype, state.axes_extents = "", value.dtype, tuple(value.shape)


def _prove(layout: Layout, seen: Seen) -> list[inference_pb2.IdentityCheck]:
    results: dict[str, inference_pb2.IdentityCheck] = {}
    for layer, block in enumerate(layout.blocks):
        for name, left, right, proved in _checks(layout, layer, block, seen):
            tolerance = TOLERANCES.get(left.dtype, 1e-5)
            error = relative_error(left, right)
            check = results.setdefault(name, inference_pb2.IdentityCheck(name=name, tolerance=tolerance))
            check.worst_relative_error = max(check.worst_relative_error, error)
            if error > tolerance:
                check.failed_layers.append(layer)
                for component in proved:
                    layout.state(
                        Point(component, layer)
                    ).reason = f"self-test: {name} fails with relative error {error:.2g} (allowed {tolerance:.0e})"
    return list(results.values())


def _checks(layout: Layout, layer: int, block: Block, seen: Seen) -> Iterator[Check]:
    """The identities of one layer, as far as their tensors were seen."""

    def get(*components: str) -> list[mx.array] | None:
        found = [seen.get(Point(component, layer)) for component in components]
        return None if any(x is None for x in found) else [x for x in found if x is not None]

    if found := get("resid_pre", "resid_mid", "resid_post", "attn_contrib", "mlp_contrib"):
        pre, mid, post, attention, mlp = found
        if _is_parallel(pre, mid, post, attention, mlp):
            layout.state(
                Point("resid_mid", layer)
            ).reason = "attention and MLP run in parallel on one stream: there is none between them"
            yield "resid_pre + attn_contrib + mlp_contrib == resid_post", pre + attention + mlp, post, ()
        else:
            yield "resid_pre + attn_contrib == resid_mid", pre + attention, mid, ("resid_mid", "attn_contrib")
            yield "resid_mid + mlp_contrib == resid_post", mid + mlp, post, ("mlp_contrib",)
    after = seen.get(Point("resid_pre", layer + 1))
    if (found := get("resid_post")) and after is not None:
        yield "resid_post == next layer's resid_pre", found[0], after, ("resid_post",)
    if found := get("attention_pattern", "value", "head_output"):
        pattern, value, output = found
        yield "attention_pattern @ value == head_output", _mix(pattern, value), output, (
            "attention_scores", "attention_pattern", "value", "head_output",
        )  # fmt: skip
    if (found := get("head_output", "attn_out")) and block.output_projection is not None:
        projected = _apply(block.output_projection, found[0].reshape(*found[0].shape[:2], -1))
        if projected is not None and projected.shape == found[1].shape:
            yield "output_projection(head_output) == attn_out", projected, found[1], ("head_output",)
    if (found := get("mlp_neurons", "mlp_out")) and block.down_projection is not None:
        projected = _apply(block.down_projection, found[0])
        if projected is not None:
            yield "down_projection(mlp_neurons) == mlp_out", projected, found[1], ("mlp_neurons",)


def _is_parallel(pre: mx.array, mid: mx.array, post: mx.array, attention: mx.array, mlp: mx.array) -> bool:
    tolerance = TOLERANCES.get(pre.dtype, 1e-5)
    return relative_error(pre + attention, mid) > tolerance and relative_error(pre + attention + mlp, post) <= tolerance


def _mix(pattern: mx.array, value: mx.array) -> mx.array:
    """(B, H, Q, K) and (B, K, H_kv, D) -> (B, Q, H, D)."""
    batch, heads, queries, keys = pattern.shape
    kv_heads = value.shape[2]
    grouped = pattern.reshape(batch, kv_heads, heads // kv_heads, queries, keys) @ value.swapaxes(1, 2)[:, :, None]
    return grouped.reshape(batch, heads, queries, -1).swapaxes(1, 2)


def _apply(module: nn.Module, x: mx.array) -> mx.array | None:
    call: Callable[[mx.array], mx.array] = module  # type: ignore[assignment]  # nn.Module declares no __call__
    try:
        return call(x)
    except ValueError:  # the projection reads something else than the name promises
        return None


def relative_error(a: mx.array, b: mx.array) -> float:
    """max|a - b| / max|b| in float32; infinite where either holds a NaN, which proves nothing."""
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    error = number(mx.abs(a - b).max() / mx.maximum(mx.abs(b).max(), 1e-30))
    return math.inf if math.isnan(error) else error
