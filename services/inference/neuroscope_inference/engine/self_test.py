"""The self-test at load: hooked logits equal plain ones bit for bit, and points satisfy what defines them.

Two forward passes of eight tokens. Each layer is proved as soon as it has run, and its tensors are let go of, so a
large model needs the memory of one layer's. A point whose identity fails is withdrawn, with the numbers as the reason;
so is a point for which there is no identity.
"""

from __future__ import annotations

import time
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from neuroscope.errors import ModelUnsupportedError
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS, Point
from neuroscope_inference.engine import identities
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex, PointView
from neuroscope_inference.engine.identities import Activations, Identity
from neuroscope_inference.engine.layout import Layout

TOKEN_COUNT = 8
_UNPROVED = "self-test: no identity that this model offers proves the point"


def run(layout: Layout, vocab_size: int) -> inference_pb2.SelfTest:
    """Hooks the model and proves its points.

    Raises:
        ModelUnsupportedError: the model does not run, or hooks change its logits.
    """
    started = time.perf_counter()
    tokens = mx.array([[(7 * index + 3) % vocab_size for index in range(TOKEN_COUNT)]])
    plain = _forward(layout.model, tokens)
    mx.eval(plain)
    layout.install_hooks()
    proof = PointVerifier(layout, tokens)
    hook_plan = SelfTestHookPlan(layout, proof)
    with proof.record_routing(), layout.active_hooks.activate(hook_plan):
        hooked = _forward(layout.model, tokens)
    mx.eval(hooked)
    identical = bool(mx.array_equal(plain, hooked, equal_nan=True).item())
    if not identical:
        raise ModelUnsupportedError("hooks change this model's logits; it cannot be studied", field="model_path")
    proof.finish(_by_point(layout, hook_plan.captured))
    return inference_pb2.SelfTest(
        logits_identical=identical,
        identities=list(proof.results.values()),
        token_count=TOKEN_COUNT,
        duration_ms=1e3 * (time.perf_counter() - started),
    )


class SelfTestHookPlan(HookPlan):
    """Reads every point, and has a layer proved as soon as its output is there."""

    def __init__(self, layout: Layout, proof: PointVerifier) -> None:
        super().__init__([True] * len(layout.states))
        self._layout, self._proof = layout, proof
        self._ends = {layout.index[Point("resid_post", layer)]: layer for layer in range(layout.num_layers)}

    def capture(self, point: PointIndex, value: mx.array, view: PointView | None = None) -> None:
        """Keeps the value; at the end of a layer proves the layer and lets go of its values."""
        super().capture(point, value, view)
        if (layer := self._ends.get(point)) is None:
            return
        states = self._layout.states
        here = [index for index in self.captured if states[index].point.layer == layer]
        self._layout.active_hooks.hook_plan = None  # identities call the model's own modules
        try:
            self._proof.verify_layer(
                layer, _by_point(self._layout, {index: self.captured.pop(index) for index in here})
            )
        finally:
            self._layout.active_hooks.hook_plan = self


class PointVerifier:
    """What is proved of one model so far."""

    def __init__(self, layout: Layout, tokens: mx.array) -> None:
        self.results: dict[str, inference_pb2.IdentityCheck] = {}
        self._layout, self._tokens = layout, tokens
        self._accepted: set[Point] = set()
        self._proved: set[Point] = set()
        self._blamed: set[Point] = set()
        self._stream: mx.array | None = None  # after the layer before

    def record_routing(self) -> identities.RecordedRouting:
        """Within the block, routers keep what they decide."""
        return identities.RecordedRouting(self._layout)

    def verify_layer(self, layer: int, seen: Activations) -> None:
        """Proves the points of one layer from what was seen there."""
        mx.eval(list(seen.values()))
        self._accept(seen)
        found = list(identities.layer_identities(self._layout, layer, seen))
        if self._stream is not None and (stream := seen.get(Point("resid_pre", layer))) is not None:
            found.append(identities.residual_identity(layer, self._stream, stream))
        for identity in found:
            self._check(layer, identity)
        self._accept({point: seen[point] for point in seen if point not in self._accepted})  # what identities added
        self._stream = seen.get(Point("resid_post", layer))

    def finish(self, seen: Activations) -> None:
        """Proves the points of no layer, and withdraws what nothing proved."""
        mx.eval(list(seen.values()))
        self._accept(seen)
        self._proved.add(Point("logits"))  # they were compared bit for bit
        for identity in identities.model_identities(self._layout, self._tokens, self._stream, seen):
            self._check(max(self._layout.num_layers - 1, 0), identity)
        for point in self._accepted - self._proved:
            state = self._layout.state(point)
            state.reason = state.reason or _UNPROVED

    def _accept(self, seen: Activations) -> None:
        """Accepts what was seen in the shape that its component promises; drops the rest."""
        for point, value in list(seen.items()):
            if point in self._blamed:
                continue
            state = self._layout.state(point)
            axes = COMPONENTS[point.component].axes
            if value.ndim != len(axes) or value.shape[axes.index(tensor_pb2.AXIS_POSITION)] != TOKEN_COUNT:
                state.reason = f"the model passes an array of shape {tuple(value.shape)} here, not {len(axes)} axes"
                del seen[point]
                continue
            self._accepted.add(point)
            state.reason, state.dtype, state.axes_extents = "", value.dtype, tuple(value.shape)

    def _check(self, layer: int, identity: Identity) -> None:
        error = identities.relative_error(identity.left, identity.right)
        tolerance = identities.tolerance_of(identity.dtype)
        holds = error <= tolerance
        if not holds and not identity.blames:
            return  # one proof of several; another may hold
        name = identity.name
        check = self.results.setdefault(name, inference_pb2.IdentityCheck(name=name, tolerance=tolerance))
        check.worst_relative_error = max(check.worst_relative_error, error)
        if holds:
            self._proved.update(identity.proves)
            return
        check.failed_layers.append(layer)
        for point in identity.blames:
            self._blamed.add(point)
            self._layout.state(
                point
            ).reason = f"self-test: {name} fails with relative error {error:.2g} (allowed {tolerance:.0e})"


def _forward(model: nn.Module, tokens: mx.array) -> mx.array:
    call: Any = model
    return call(tokens, cache=make_prompt_cache(model))


def _by_point(layout: Layout, values: dict[PointIndex, mx.array]) -> Activations:
    return {layout.states[index].point: value for index, value in values.items()}
