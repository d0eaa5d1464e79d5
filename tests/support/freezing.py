"""Path patching as its papers describe it: forward passes in which every component but the sender is frozen by a hook.

Runs of the whole model: the frozen one of a sender, in which the inputs of receivers are read, and for each path one in
which they are put; nothing is taken from the engine but its hooks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.hook_plan import HookPlan, RowEdit
from neuroscope_inference.engine.model import LoadedModel

Put = Callable[[mx.array], mx.array]


def hooked(
    model: LoadedModel, tokens: Sequence[int], puts: Mapping[Point, Put], reads: Sequence[Point]
) -> tuple[mx.array, dict[Point, mx.array]]:
    """Logits (positions, vocabulary) of a run in which points are replaced, and what passed at some of them."""
    layout = model.layout
    edits = {layout.index[point]: [RowEdit(put)] for point, put in puts.items()}
    hook_plan = HookPlan(layout.capture_mask([layout.index[point] for point in reads]), edits)
    network: Any = model.network
    with layout.active_hooks.activate(hook_plan):
        logits = network(mx.array([list(tokens)]), cache=make_prompt_cache(model.network))
    mx.eval(logits, hook_plan.captured)
    return logits[0], {point: hook_plan.captured[layout.index[point]] for point in reads}


def there(model: LoadedModel, component: str, *, is_input: bool = False) -> list[Point]:
    """The points of a component that the model has."""
    points = [Point(component, layer, is_input) for layer in range(model.layout.num_layers)]
    return [point for point in points if not model.layout.state(point).reason]


def replaced(value: mx.array, heads: Sequence[int] = (), positions: Sequence[int] = ()) -> Put:
    """Puts a value (1, positions, ...) in the place of what passes, in some heads and at some positions of it alone."""

    def put(passing: mx.array) -> mx.array:
        kept = np.array(passing.astype(mx.float32))
        new = np.array(value.astype(mx.float32))
        where: Any = np.zeros(kept.shape[:2], bool)
        where[:, list(positions) or slice(None)] = True
        chosen = np.zeros(kept.shape, bool)
        if heads:
            chosen[:, :, list(heads)] = where[:, :, None, None]
        else:
            chosen[where] = True
        return mx.array(np.where(chosen, new, kept)).astype(passing.dtype)

    return put


Receiver = tuple[Point, Sequence[int], Sequence[int]]
"""Point, heads and positions; empty: all."""


def path_patched(
    model: LoadedModel,
    edited: Sequence[int],
    sender: tuple[Point, mx.array, Sequence[int], Sequence[int]],
    paths: Sequence[Sequence[Receiver]],
    *,
    recompute_mlps: bool = False,
) -> list[NDArray[np.float32]]:
    """Logits (positions, vocabulary) of the edited prompt with one path patched, for each path of a sender.

    Args:
        model: any.
        edited: its tokens.
        sender: the point, what is put there (1, positions, ...), heads and positions; empty: all.
        paths: the receivers of each.
        recompute_mlps: MLPs are not frozen.
    """
    heads, mlps = there(model, "head_output"), there(model, "mlp_out")
    _, usual = hooked(model, edited, {}, [*heads, *mlps])
    point, value, of_heads, at = sender
    puts = {point: replaced(usual[point]) for point in (heads if recompute_mlps else [*heads, *mlps])}
    if point.component == "attn_out":  # made of its heads, which are frozen: it is replaced behind them
        puts[point] = replaced(value, of_heads, at)
    else:
        frozen = puts.get(point, lambda passing: passing)
        puts[point] = lambda passing: replaced(value, of_heads, at)(frozen(passing))
    read = {name for receivers in paths for name, *_ in receivers}
    _, inputs = hooked(model, edited, puts, list(read))
    found: list[NDArray[np.float32]] = []
    for receivers in paths:
        final: dict[Point, Put] = {}
        for name, of_heads, at in receivers:
            earlier = final.get(name, lambda passing: passing)
            now = replaced(inputs[name], of_heads, at)
            final[name] = lambda passing, earlier=earlier, now=now: now(earlier(passing))
        logits, _ = hooked(model, edited, final, [])
        found.append(np.array(logits.astype(mx.float32)))
    return found
