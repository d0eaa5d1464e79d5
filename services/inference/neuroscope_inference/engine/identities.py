"""The identities that prove points: what adds up, what follows from what, within one layer and between layers.

Knows nothing of how tensors were read. Every identity names the points that it proves and those that it is held
against when it fails; one without the latter is one way of several to prove a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

import mlx.core as mx
import mlx.nn as nn

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.arrays import scalar
from neuroscope_inference.engine.layout import Block, Layout
from neuroscope_inference.engine.qkv_layout import ORDERS, QkvLayout
from neuroscope_inference.engine.routing import Routing, candidate_equalities

Activations = dict[Point, mx.array]
_TOLERANCES = {mx.float32: 1e-5, mx.float16: 1e-2, mx.bfloat16: 5e-2}
_PARALLEL = "attention and MLP run in parallel on one stream: there is none between them"


@dataclass(frozen=True, slots=True)
class Identity:
    """left == right."""

    name: str
    left: mx.array
    right: mx.array
    proves: list[Point]
    blames: list[Point] = field(default_factory=list[Point])
    source: mx.array | None = None  # whose dtype says how exact the sides are, where they are computed in float32

    @property
    def dtype(self) -> mx.Dtype:
        """The coarser dtype of what is compared."""
        dtypes = [self.source.dtype] if self.source is not None else [self.left.dtype, self.right.dtype]
        return max(dtypes, key=tolerance_of)


def tolerance_of(dtype: mx.Dtype) -> float:
    """Relative error that rounding explains."""
    return _TOLERANCES.get(dtype, 1e-5)


def relative_error(a: mx.array, b: mx.array) -> float:
    """max|a - b| / max|b| in float32; infinite where shapes differ or either holds a NaN, which proves nothing."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    error = scalar(mx.abs(a - b).max() / mx.maximum(mx.abs(b).max(), 1e-30))
    return math.inf if math.isnan(error) else error


class RecordedRouting:
    """Within the block the routers of a model keep what they decide."""

    def __init__(self, layout: Layout) -> None:
        self._routings = [block.routing for block in layout.blocks if block.routing is not None]

    def __enter__(self) -> None:
        for routing in self._routings:
            routing.records = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for routing in self._routings:
            routing.records = False
            routing.clear()


def layer_identities(layout: Layout, layer: int, seen: Activations) -> Iterator[Identity]:
    """The identities of one layer, as far as their tensors were seen; what can only be computed now joins `seen`."""
    checks = _LayerIdentities(layout, layer, layout.blocks[layer], seen)
    yield from checks.stream()
    yield from checks.norms()
    yield from checks.projections()
    yield from checks.attention()
    yield from checks.mlp()
    yield from checks.routing()


def residual_identity(layer: int, after: mx.array, before: mx.array) -> Identity:
    """What leaves the layer below is what enters this one."""
    points = [Point("resid_post", layer - 1), Point("resid_pre", layer)]
    return Identity("resid_post == next layer's resid_pre", after, before, points, points[:1])


def model_identities(
    layout: Layout, tokens: mx.array, stream: mx.array | None, seen: Activations
) -> Iterator[Identity]:
    """Embedding and last norm. The stream is the last layer's output."""
    embedding, norm = Point("embedding"), Point("final_norm")
    if embedding in seen and (expected := _call(layout.embedding, tokens)) is not None:
        yield Identity("embedding(tokens) == embedding", expected, seen[embedding], [embedding], [embedding])
    if norm in seen and stream is not None and (expected := _call(layout.final_norm, stream)) is not None:
        last = Point("resid_post", layout.num_layers - 1)
        yield Identity("final_norm(last resid_post) == final_norm", expected, seen[norm], [norm, last], [norm])


class _LayerIdentities:
    def __init__(self, layout: Layout, layer: int, block: Block, seen: Activations) -> None:
        self.layout, self.layer, self.block, self.seen = layout, layer, block, seen

    def points(self, *components: str) -> list[Point]:
        return [Point(name.removesuffix(".input"), self.layer, name.endswith(".input")) for name in components]

    def get(self, *components: str) -> list[mx.array] | None:
        """What was seen at these points; None if one is missing."""
        found = [self.seen[point] for point in self.points(*components) if point in self.seen]
        return found if len(found) == len(components) else None

    def identity(
        self, name: str, left: mx.array | None, right: mx.array, proves: str, blames: str = "", *, source: str = ""
    ) -> Iterator[Identity]:
        """One identity between components, by their names; none where a side could not be computed."""
        if left is not None:
            dtype_of = self.seen[self.points(source)[0]] if source else None
            yield Identity(name, left, right, self.points(*proves.split()), self.points(*blames.split()), dtype_of)

    def stream(self) -> Iterator[Identity]:
        """Contributions add up."""
        if found := self.get("resid_pre", "resid_mid", "resid_post", "attn_contrib", "mlp_contrib"):
            pre, mid, post, attention, mlp = found
            if _is_parallel(pre, mid, post, attention, mlp):
                point = self.points("resid_mid")[0]
                del self.seen[point]
                self.layout.state(point).reason = _PARALLEL
                yield from self.identity(
                    "resid_pre + attn_contrib + mlp_contrib == resid_post", pre + attention + mlp, post,
                    "resid_pre attn_contrib mlp_contrib resid_post",
                )  # fmt: skip
            else:
                yield from self.identity(
                    "resid_pre + attn_contrib == resid_mid", pre + attention, mid,
                    "resid_pre attn_contrib resid_mid", "resid_mid attn_contrib",
                )  # fmt: skip
                yield from self.identity(
                    "resid_mid + mlp_contrib == resid_post", mid + mlp, post,
                    "resid_mid mlp_contrib resid_post", "mlp_contrib",
                )  # fmt: skip
        elif (found := self.get("resid_pre", "resid_post", "attn_contrib")) and self.block.mlp is None:
            pre, post, attention = found
            yield from self.identity(
                "resid_pre + attn_contrib == resid_post", pre + attention, post,
                "resid_pre attn_contrib resid_post", "attn_contrib",
            )  # fmt: skip
        elif (found := self.get("resid_pre", "resid_post", "mlp_contrib")) and self.block.attention is None:
            pre, post, mlp = found
            yield from self.identity(
                "resid_pre + mlp_contrib == resid_post", pre + mlp, post,
                "resid_pre mlp_contrib resid_post", "mlp_contrib",
            )  # fmt: skip

    def norms(self) -> Iterator[Identity]:
        """Norms stand where their names say: in front of attention and MLP, or behind them."""
        for norm, before, after, component in (
            (self.block.norm1, "resid_pre", "attn_out.input", "ln1"),
            (self.block.norm2, "resid_mid", "mlp_out.input", "ln2"),
        ):
            if found := self.get(component, after):
                yield from self.identity(f"{component} == {after}", found[0], found[1], f"{component} {after}")
            if found := self.get(before, component):
                yield from self.identity(
                    f"norm({before}) == {component}", _call(norm, found[0]), found[1], component, component
                )
        if found := self.get("resid_pre", "attn_out.input"):
            yield from self.identity("resid_pre == attn_out.input", found[0], found[1], "attn_out.input")
        for norm, component in (
            (self.block.attention_output_norm, "attn"),
            (self.block.mlp_output_norm, "mlp"),
        ):
            if found := self.get(f"{component}_out", f"{component}_contrib"):
                out, contribution = found
                normed = out if norm is None else _call(norm, out)
                yield from self.identity(
                    f"{component}_contrib follows from {component}_out",
                    None if normed is None else normed * self.block.contribution_scale,
                    contribution,
                    f"{component}_out",
                    f"{component}_contrib",
                )

    def projections(self) -> Iterator[Identity]:
        """Rotary embedding turns nothing at position 0, so a head's query points there where its projection does."""
        block, columns = self.block, self.layout.columns[self.layer]
        if block.query_projection is None and (found := self.get("attn_out.input")):
            raw = _call(block.fused_projection, found[0])
            if raw is not None and columns.fits(raw):
                self._choose_column_order(columns, raw)
        for name, after, projection, norm in (
            ("q_proj", "query", block.query_projection, block.query_norm),
            ("k_proj", "key", block.key_projection, block.key_norm),
        ):
            if found := self.get(name, after):
                projected, turned = unit_heads(normed_heads(norm, found[0][:, :1])), unit_heads(found[1][:, :1])
                yield from self.identity(
                    f"{name} points where {after} does at position 0", projected, turned, f"{name} {after}", name,
                    source=name,
                )  # fmt: skip
            if (found := self.get(name, "attn_out.input")) and (output := _call(projection, found[1])) is not None:
                yield from self.identity(
                    f"{name} follows from attn_out.input", output.reshape(found[0].shape), found[0], "attn_out.input"
                )

    def _choose_column_order(self, columns: QkvLayout, raw: mx.array) -> None:
        """Chooses the order of a fused projection's columns by what the heads attend with."""
        found = self.get("query", "key")
        if found is None:
            return
        errors: dict[str, float] = {}
        for order in ORDERS:
            columns.order = order
            sides = (
                (columns.queries.read(raw), self.block.query_norm, found[0]),
                (columns.keys.read(raw), self.block.key_norm, found[1]),
            )
            errors[order] = sum(
                relative_error(unit_heads(normed_heads(norm, x[:, :1])), unit_heads(y[:, :1])) for x, norm, y in sides
            )
        columns.order = min(errors, key=errors.__getitem__)
        query, key = self.points("q_proj", "k_proj")
        self.seen[query], self.seen[key] = columns.queries.read(raw), columns.keys.read(raw)

    def attention(self) -> Iterator[Identity]:
        """Heads mix values by their patterns, and the output projection reads them."""
        components = "query key value attention_scores attention_pattern head_output"
        if found := self.get("attention_pattern", "value", "head_output"):
            pattern, value, output = found
            yield from self.identity(
                "attention_pattern @ value == head_output", _weight_values(pattern, value), output, components,
                "value attention_scores attention_pattern head_output",
            )  # fmt: skip
        if (found := self.get("head_output", "attn_out")) and self.block.output_projection is not None:
            heads, output = found
            projected = _call(self.block.output_projection, heads.reshape(*heads.shape[:2], -1))
            if projected is not None and projected.shape == output.shape:
                yield from self.identity(
                    "output_projection(head_output) == attn_out", projected, output, "head_output attn_out",
                    "head_output",
                )  # fmt: skip

    def mlp(self) -> Iterator[Identity]:
        """The MLP reads its input and nothing else, and its down projection reads the neurons."""
        if found := self.get("mlp_out.input", "mlp_out"):
            yield from self.identity(
                "mlp(mlp_out.input) == mlp_out", _call(self.block.mlp, found[0]), found[1], "mlp_out.input mlp_out"
            )
        if found := self.get("mlp_neurons", "mlp_out"):
            yield from self.identity(
                "down_projection(mlp_neurons) == mlp_out", _call(self.block.down_projection, found[0]), found[1],
                "mlp_neurons mlp_out", "mlp_neurons",
            )  # fmt: skip

    def routing(self) -> Iterator[Identity]:
        """The chosen experts, weighted, add up to the layer's output; the weights come from the logits."""
        routing, found = self.block.routing, self.get("mlp_out.input", "mlp_out", "expert_indices")
        if routing is None or found is None:
            return
        stream, output, choice = found
        weights = self._explain_weights(routing, stream, output)
        if weights is not None:
            self.seen[self.points("expert_weights")[0]] = weights[0]
            yield from self.identity(
                "expert_weights @ outputs of the experts == mlp_out", weights[1], output,
                "expert_weights expert_indices",
            )  # fmt: skip
        logits = self.get("router_logits")
        if logits is None:
            return
        if weights is not None:
            for left, right in candidate_equalities(logits[0], choice, weights[0]):
                yield from self.identity(
                    "expert_weights follow from router_logits", left, right, "router_logits", source="mlp_out"
                )
        chosen = mx.sort(mx.take_along_axis(logits[0], choice, axis=-1), axis=-1)
        best = mx.sort(logits[0], axis=-1)[..., -choice.shape[-1] :]
        yield from self.identity(
            "expert_indices are those of the largest router_logits", chosen, best, "router_logits expert_indices"
        )

    def _explain_weights(
        self, routing: Routing, stream: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array] | None:
        """Weights by the rule that explains the layer's output, and the output that they explain."""
        best: tuple[float, str, mx.array, mx.array] | None = None
        for rule, weights, explained in routing.candidate_weights(stream):
            error = relative_error(explained, output)
            if best is None or error < best[0]:
                best = error, rule, weights, explained
        if best is None or best[0] > tolerance_of(output.dtype):
            state = self.layout.state(self.points("expert_weights")[0])
            state.reason = "no rule that is known turns the router's logits into the weights of the experts"
            return None
        routing.rule = best[1]
        return best[2], best[3]


def _is_parallel(pre: mx.array, mid: mx.array, post: mx.array, attention: mx.array, mlp: mx.array) -> bool:
    tolerance = tolerance_of(pre.dtype)
    return relative_error(pre + attention, mid) > tolerance and relative_error(pre + attention + mlp, post) <= tolerance


def _weight_values(pattern: mx.array, value: mx.array) -> mx.array | None:
    """(B, H, Q, K) and (B, K, H_kv, D) -> (B, Q, H, D)."""
    batch, heads, queries, keys = pattern.shape
    kv_heads = value.shape[2]
    if value.shape[1] != keys or heads % kv_heads:
        return None
    grouped = pattern.reshape(batch, kv_heads, heads // kv_heads, queries, keys) @ value.swapaxes(1, 2)[:, :, None]
    return grouped.reshape(batch, heads, queries, -1).swapaxes(1, 2)


def unit_heads(x: mx.array) -> mx.array:
    """(B, L, heads, d_head) -> unit vectors, float32."""
    x = x.astype(mx.float32)
    return x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def normed_heads(norm: nn.Module | None, x: mx.array) -> mx.array:
    """Heads (B, L, heads, d_head) through the norm that stands before the rotary embedding, of a head or of all."""
    if norm is None:
        return x
    weight = norm.get("weight")
    is_of_all = (
        isinstance(weight, mx.array) and weight.ndim == 1 and weight.size == x.shape[-1] * x.shape[-2] != x.shape[-1]
    )
    normed = _call(norm, x.reshape(*x.shape[:2], -1) if is_of_all else x)
    return x if normed is None else normed.reshape(x.shape)


def _call(module: nn.Module | None, x: mx.array) -> mx.array | None:
    """The module's output; None where it takes something else than its name promises."""
    if module is None:
        return None
    call: Callable[[mx.array], mx.array | tuple[mx.array, ...]] = module  # type: ignore[assignment]  # nn.Module declares no __call__
    try:
        output = call(x)
    except (ValueError, TypeError, AttributeError, IndexError):
        return None
    return output if isinstance(output, mx.array) else None
