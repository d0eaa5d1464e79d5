"""Registry of the functions that draw values, for `neuroscope.display`. Modules are imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from neuroscope.errors import InvalidRequestError

VIEWS: Mapping[str, Mapping[str, str]] = {
    "Displayable": {"text": "tables:text", "mimebundle": "tables:mimebundle"},
    "ActivationCache": {"table": "tables:cache_table"},
    "AttentionComparison": {"table": "attention_tables:comparison_table", "picture": "comparison_picture:draw"},
    "AttentionResult": {
        "table": "attention_tables:attention_table",
        "label_table": "attention_tables:label_table",
        "summary_table": "attention_tables:summary_table",
        "picture": "attention_picture:draw",
    },
    "AttributionResult": {"table": "sweep_tables:attribution_table"},
    "CircuitContent": {
        "table": "circuit_tables:circuit_table",
        "picture": "circuit_picture:draw",
        "image": "circuit_picture:image",
        "page": "circuit_page:write",
        "mimebundle": "circuit_page:mimebundle",
    },
    "CircuitComparison": {"table": "circuit_tables:comparison_table", "picture": "circuit_picture:draw_comparison"},
    "CompositionResult": {"table": "attention_tables:composition_table", "picture": "composition_picture:draw"},
    "Dataset": {"table": "tables:dataset_table"},
    "Directions": {"table": "tables:directions_table", "picture": "directions_picture:draw"},
    "DiscoveryResult": {"table": "circuit_tables:discovery_table"},
    "EvaluationResult": {"table": "circuit_tables:evaluation_table"},
    "FeatureActivations": {"table": "tables:features_table", "picture": "features_picture:draw"},
    "LabelledArray": {"table": "tables:array_table"},
    "InformationFlow": {"table": "residual_tables:flow_table", "picture": "flow_picture:draw"},
    "InteractionGraph": {"table": "attention_tables:interactions_table", "picture": "interactions_picture:draw"},
    "LayerPredictions": {"table": "tables:lens_table", "picture": "lens_picture:draw"},
    "ModelInfo": {"table": "tables:model_table"},
    "VocabularyProjection": {"table": "tables:projected_table"},
    "ResidualResult": {
        "table": "residual_tables:residual_table",
        "lens_table": "residual_tables:lens_table",
        "picture": "residual_picture:draw",
    },
    "Scores": {"table": "sweep_tables:scores_table", "picture": "sweep_picture:draw"},
    "SweepResult": {"table": "sweep_tables:result_table"},
    "TunedLensResult": {"table": "residual_tables:training_table"},
    "Weights": {"table": "weights_table:weights_table"},
}
"""`module:function` in `neuroscope.viz`, by class and view. The first argument of the function is the value."""


def presenter_of(kind: type, view: str) -> Callable[..., Any]:
    """The function that draws a view of a class. Classes inherit the views of their bases.

    Raises:
        InvalidRequestError: the function needs matplotlib, which is not installed.
        LookupError: the class has no such view.
    """
    for base in kind.__mro__:
        if place := VIEWS.get(base.__name__, {}).get(view):
            module, _, function = place.partition(":")
            return getattr(_imported(module), function)
    raise LookupError(f"{kind.__name__} has no {view}")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(f"neuroscope.viz.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise InvalidRequestError("plot needs matplotlib: pip install 'neuroscope-mlx[viz]'", field="viz") from None
