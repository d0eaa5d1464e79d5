"""The router of one mixture layer: logits where it does not pass them on, and the weights of the chosen experts.

Weights go through no module, so they are computed beside the model from logits and choice, by one of `RULES`. Which
rule a layer follows is not looked up: the self-test takes the one that makes the experts add up to the layer's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from neuroscope_inference.engine.hook_plan import ActiveHookPlan, PointIndex
from neuroscope_inference.engine.module_hooks import Call, intercept

Rule = Callable[[mx.array, mx.array], mx.array]
"""(logits (B, L, experts), choice (B, L, k)) -> weights (B, L, k)."""


def _softmax_of_chosen(logits: mx.array, choice: mx.array) -> mx.array:
    return mx.softmax(mx.take_along_axis(logits, choice, axis=-1), axis=-1, precise=True)


def _softmax_of_all(logits: mx.array, choice: mx.array) -> mx.array:
    return mx.take_along_axis(mx.softmax(logits, axis=-1, precise=True), choice, axis=-1)


def _sigmoid(logits: mx.array, choice: mx.array) -> mx.array:
    return mx.sigmoid(mx.take_along_axis(logits, choice, axis=-1).astype(mx.float32))


def _sigmoid_normalised(logits: mx.array, choice: mx.array) -> mx.array:
    weights = _sigmoid(logits, choice)
    return weights / weights.sum(axis=-1, keepdims=True)


RULES: dict[str, Rule] = {
    "softmax over the chosen": _softmax_of_chosen,
    "softmax over all": _softmax_of_all,
    "sigmoid": _sigmoid,
    "sigmoid over their sum": _sigmoid_normalised,
}


class Routing:
    """What the router of one layer decided in the running forward pass.

    Args:
        gating: a linear layer that returns logits, or a module that returns choice and weights itself.
        experts: called with the stream and the choice.
        shared: the expert of every token, and its gate.
        mlp: the layer that holds them.
    """

    def __init__(
        self, gating: nn.Module, experts: nn.Module, shared: tuple[nn.Module | None, nn.Module | None], mlp: nn.Module
    ) -> None:
        self.gating, self.experts, self.shared = gating, experts, shared
        self.linear = _find_linear(gating)
        """The layer whose output is the logits; None where the router multiplies with a matrix of its own."""
        self.scale = float(getattr(mlp, "routed_scaling_factor", None) or 1.0)
        self.rule = ""
        """Key of `RULES`; empty until the self-test has found it. A router that returns weights needs none."""
        self.records = False
        """Whether what was decided stays after the experts have run: for the self-test."""
        self.logits: mx.array | None = None
        self.returned_weights: mx.array | None = None
        self.choice: mx.array | None = None
        self.expert_input: mx.array | None = None
        self.expert_outputs: mx.array | None = None

    def install(self, switch: ActiveHookPlan, logits: PointIndex, weights: PointIndex) -> None:
        """Intercepts router and experts; what they decide reaches the hook plan in the switch."""

        def at_linear(module: nn.Module, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = call(module, *args, **kwargs)
            if switch.hook_plan is not None:
                self.logits = result
            return result

        def at_gating(module: nn.Module, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = call(module, *args, **kwargs)
            hook_plan = switch.hook_plan
            if hook_plan is None or not isinstance(result, tuple):
                return result
            floating = [x for x in result if isinstance(x, mx.array) and mx.issubdtype(x.dtype, mx.floating)]
            self.returned_weights = floating[0] if floating else None
            if self.linear is None and isinstance(matrix := module.get("weight"), mx.array):
                computed: mx.array = args[0] @ matrix.T
                self.logits = computed
                hook_plan.capture(logits, computed)
            return result

        def at_experts(module: nn.Module, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = call(module, *args, **kwargs)
            hook_plan = switch.hook_plan
            if hook_plan is None or len(args) < 2:
                return result
            if self.records:
                self.expert_input, self.choice, self.expert_outputs = args[0], args[1], result
                return result
            if hook_plan.capture_mask[weights] and (found := self.weights(args[1])) is not None:
                hook_plan.capture(weights, found)
            self.clear()
            return result

        if self.linear is not None:
            intercept(self.linear, at_linear)
        if self.linear is not self.gating:
            intercept(self.gating, at_gating)
        intercept(self.experts, at_experts)

    def weights(self, choice: mx.array, rule: str = "") -> mx.array | None:
        """Weights of the chosen experts (B, L, k); None if no rule is known."""
        if self.returned_weights is not None:
            return self.returned_weights
        rule = rule or self.rule
        if self.logits is None or not rule:
            return None
        return self.scale * RULES[rule](self.logits, choice)

    def clear(self) -> None:
        """Lets go of what the last forward pass left."""
        self.logits = self.returned_weights = self.choice = self.expert_input = self.expert_outputs = None

    def candidate_weights(self, stream: mx.array) -> Iterator[tuple[str, mx.array, mx.array]]:
        """(rule, weights, the layer's output if they were right), from what was kept; the stream is what it read."""
        if self.choice is None or self.expert_outputs is None or self.expert_input is None:
            return
        shared = self._shared(stream)
        for rule in ("",) if self.returned_weights is not None else RULES:
            weights = self.weights(self.choice, rule)
            if weights is None or self.expert_outputs.shape[:-1] != weights.shape:
                continue
            if _close(self.expert_input, stream):
                mixed = (self.expert_outputs * weights[..., None].astype(self.expert_outputs.dtype)).sum(axis=-2)
            elif weights.shape[-1] == 1 and _close(self.expert_input, stream * weights.astype(stream.dtype)):
                mixed = self.expert_outputs.squeeze(-2)  # llama4 weights what its only expert reads
            else:
                continue
            yield rule, weights, mixed if shared is None else mixed + shared

    def _shared(self, stream: mx.array) -> mx.array | None:
        expert, gate = self.shared
        if expert is None:
            return None
        output: mx.array = expert(stream)  # type: ignore[operator]  # nn.Module declares no __call__
        if gate is not None:
            output = mx.sigmoid(gate(stream)) * output  # type: ignore[operator]
        return output


def candidate_equalities(logits: mx.array, choice: mx.array, weights: mx.array) -> Iterator[tuple[mx.array, mx.array]]:
    """Pairs of which one is equal if the weights come from the logits, up to a factor for each token."""
    expected = weights.astype(mx.float32)
    expected = expected / expected.sum(axis=-1, keepdims=True)
    for rule in RULES.values():
        found = rule(logits.astype(mx.float32), choice)
        yield found / found.sum(axis=-1, keepdims=True), expected


def _close(a: mx.array, b: mx.array) -> bool:
    return a.shape == b.shape and bool(mx.allclose(a, b, rtol=1e-3, atol=1e-6).item())


def _find_linear(gating: nn.Module) -> nn.Module | None:
    """The router itself if it is linear, or else its only linear part."""
    if _is_linear(gating):
        return gating
    parts = [part for part in gating.values() if isinstance(part, nn.Module) and _is_linear(part)]
    return parts[0] if len(parts) == 1 else None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.QuantizedLinear)) or "lora_a" in module
