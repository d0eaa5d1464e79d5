"""The model's own final norm and unembedding, applied to any residual stream: the logit lens.

nostalgebraist, "interpreting GPT: the logit lens" (2020). The model's code runs with its blocks passed by and the final
norm fed the tensor, so that scale, bias and softcap are those of the architecture, whatever they are.
"""

from __future__ import annotations

import logging
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.hook_plan import HookPlan
from neuroscope_inference.engine.identities import relative_error, tolerance_of
from neuroscope_inference.engine.layout import Layout

_log = logging.getLogger(__name__)
_PROBE = (1, 2, 3)
LAST = slice(-1, None)
"""The last position of a chunk."""


class Unembedding:
    """The end of one model.

    Args:
        network: an mlx-lm model.
        layout: its hooked points.
    """

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        self._network = network
        self._layout = layout

    def __call__(self, residual: mx.array, *, is_normed: bool = False) -> mx.array:
        """Logits (batch, position, vocabulary) of a residual stream (batch, position, d_model), lazy.

        Args:
            residual: the stream.
            is_normed: whether it is taken as what the final norm gives.
        """
        hook_plan = HookPlan(self._layout.capture_mask(()))
        hook_plan.residual_override, hook_plan.override_is_normed = residual, is_normed
        call: Any = self._network
        with self._layout.active_hooks.activate(hook_plan):
            return call(mx.zeros(residual.shape[:2], mx.int32))

    def can_slice_positions(self) -> bool:
        """Whether the last position's logits need no other behind the final norm: a probe of three tokens."""
        call: Any = self._network
        hook_plan = HookPlan(self._layout.capture_mask(()))
        hook_plan.output_positions = LAST
        try:
            whole: mx.array = call(mx.array([_PROBE]))
            with self._layout.active_hooks.activate(hook_plan):
                cut: mx.array = call(mx.array([_PROBE]))
            return relative_error(cut, whole[:, -1:]) <= tolerance_of(whole.dtype)
        except Exception as error:
            _log.info("logits of a prompt's chunk are computed for all of its positions: %s", error)
            return False

    def why_unavailable(self) -> str:
        """Why this model has none: a probe of three tokens, whose last residual stream must give the model's logits."""
        layout = self._layout
        last = Point("resid_post", layout.num_layers - 1)
        if layout.final_norm is None or layout.state(last).reason:
            return "its final norm or its last residual stream is not known"
        hook_plan = HookPlan(layout.capture_mask([layout.index[last]]))
        call: Any = self._network
        try:
            with layout.active_hooks.activate(hook_plan):
                logits: mx.array = call(mx.array([_PROBE]))
            error = relative_error(self(hook_plan.captured[layout.index[last]]), logits)
        except Exception as error:  # whatever the model's code makes of blocks that are passed by
            return f"its blocks cannot be passed by: {str(error).strip() or type(error).__name__}"
        if error > tolerance_of(logits.dtype):
            return f"its last residual stream does not give its logits (they differ by {error:.1e})"
        return ""
