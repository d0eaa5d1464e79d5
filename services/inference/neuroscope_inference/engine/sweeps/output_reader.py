"""What a metric sees of runs: logits, or the last residual stream, at its positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex
from neuroscope_inference.engine.layout import Layout


@dataclass(frozen=True, slots=True)
class OutputReader:
    """Takes the end of forward passes at given positions. What is not taken is never computed.

    Args:
        layout: of the model.
        cuts: whether the final norm may pass on chosen positions only.
        reads_stream: the end is the residual stream before the final norm, (rows, positions, d_model); otherwise it is
            the logits, (rows, positions, vocabulary).
    """

    layout: Layout
    cuts: bool
    reads_stream: bool = False

    @property
    def points(self) -> list[PointIndex]:
        """What a hook plan must read for it."""
        if not self.reads_stream:
            return []
        return [self.layout.index[Point("resid_post", self.layout.num_layers - 1)]]

    def prepare(
        self, hook_plan: HookPlan, local: Sequence[int], *, edits_logits: bool
    ) -> Callable[[mx.array], mx.array]:
        """Prepares a hook plan; gives what makes the end, float32, of the logits that the model returns under it.

        Args:
            hook_plan: of the forward pass.
            local: positions, counted from the first one of the forward pass; at least one.
            edits_logits: whether logits are edited, at positions of the whole pass.
        """
        chosen = mx.array(list(local))
        is_cut = self.cuts and not edits_logits
        if is_cut:
            hook_plan.output_positions = chosen

        def end(logits: mx.array) -> mx.array:
            if self.reads_stream:
                return hook_plan.captured[self.points[0]][:, chosen].astype(mx.float32)
            return (logits if is_cut else logits[:, chosen]).astype(mx.float32)

        return end
