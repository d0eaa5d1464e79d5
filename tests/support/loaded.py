"""Models loaded into the test's own process and thread, by the engine's own code and without its thread."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.hook_plan import HookPlan
from neuroscope_inference.engine.loading import LoadRequest, load
from neuroscope_inference.engine.model import LoadedModel


def load_here(folder: Path) -> LoadedModel:
    """The model of a folder, hooked and self-tested.

    Raises:
        neuroscope.errors.ModelError: as the engine would.
    """
    *_, model = load(LoadRequest(folder, str(folder), folder.name))
    assert isinstance(model, LoadedModel)
    return model


def logits_of_steps(network: Any, prompt: list[int], continuation: list[int], hook_plan: Any = None) -> list[mx.array]:
    """Logits of a prefill, then of one forward pass for each token that follows; with `hook_plan`, inside of it."""
    cache = make_prompt_cache(network)
    steps: list[mx.array] = []
    for tokens in [prompt, *([token] for token in continuation)]:
        if hook_plan is None:
            logits = network(mx.array([tokens]), cache=cache)
            mx.eval(logits)
        else:
            with hook_plan() as reads:
                logits = network(mx.array([tokens]), cache=cache)
            mx.eval(logits, list(reads.captured.values()))
        steps.append(logits)
    return steps


def read_all(model: LoadedModel) -> Any:
    """For `logits_of_steps`: a fresh hook plan for every forward pass that reads every point there is."""
    return lambda: model.layout.active_hooks.activate(HookPlan([True] * len(model.layout.states)))


def capture_here(model: LoadedModel, tokens: list[int]) -> dict[Point, NDArray[Any]]:
    """Every available point in one forward pass without a cache from before; bfloat16 as float32, for numpy."""
    hook_plan = HookPlan([True] * len(model.layout.states))
    with model.layout.active_hooks.activate(hook_plan):
        logits = model.network(mx.array([tokens]), cache=make_prompt_cache(model.network))  # type: ignore[operator]
    mx.eval(logits, list(hook_plan.captured.values()))
    states = model.layout.states
    found = {states[i].point: x for i, x in hook_plan.captured.items() if not states[i].reason}
    return {point: np.array(x.astype(mx.float32) if x.dtype == mx.bfloat16 else x) for point, x in found.items()}
