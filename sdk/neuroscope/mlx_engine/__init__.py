"""The engine in the caller's process, under the names of mlx-engine.

    from neuroscope.mlx_engine import create_generator_with_activations, load_model, tokenize

    model = load_model("models/neuroscope-tiny")
    tokens = tokenize(model, "The capital of France is")
    hooks = [{"layer_name": "transformer.h.2", "component": "residual"}]
    for result, activations in create_generator_with_activations(model, tokens, activation_hooks=hooks, max_tokens=8):
        print(result.text, activations)

It needs the extra `inference`. What it does is done by `neuroscope.Client.local()`, which has more.
"""

from neuroscope.mlx_engine.activation_hooks import (
    ActivationHookManager,
    ActivationHookSpec,
    CapturedActivation,
    ComponentType,
    serialize_activations,
)
from neuroscope.mlx_engine.generate import (
    GenerationResult,
    GenerationStopCondition,
    Token,
    create_generator,
    create_generator_with_activations,
    load_model,
    tokenize,
)
from neuroscope.mlx_engine.model_kit import ModelKit

__all__ = [
    "ActivationHookManager",
    "ActivationHookSpec",
    "CapturedActivation",
    "ComponentType",
    "GenerationResult",
    "GenerationStopCondition",
    "ModelKit",
    "Token",
    "create_generator",
    "create_generator_with_activations",
    "load_model",
    "serialize_activations",
    "tokenize",
]
