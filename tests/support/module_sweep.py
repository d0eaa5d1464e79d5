"""What the self-test proves of a tiny model of each of mlx-lm's modules.

A module is imported, built, hooked and proved without files. What goes wrong on the way is its reason.
"""

import contextlib
import importlib
import io
import re
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from neuroscope_inference.engine import self_test
from neuroscope_inference.engine.layout import Layout
from tests.support.tiny_configs import VOCABULARY, tiny_config

RESIDUAL, ATTENTION, MLP = ("resid_pre", "resid_post"), ("attn_out",), ("mlp_out",)
_NUMBERS = re.compile(r" with relative error \S+ \(allowed \S+\)")
_METAL = "it calls a Metal kernel, so it runs on Apple silicon only"


@dataclass
class Proved:
    """What is known of one module after its self-test."""

    module: str
    failure: str = ""
    """Why there is no model to test; empty if there is one."""
    layers: int = 0
    components: dict[str, set[int | None]] = field(default_factory=dict)
    """Layers in which a component is proved; without an entry it is nowhere."""
    reasons: dict[str, set[str]] = field(default_factory=dict)
    """Components that are not proved in some layer, by reason, numbers left out."""
    identities: set[str] = field(default_factory=set)

    def has(self, components: tuple[str, ...]) -> bool:
        """Whether each of the components is proved in a layer at least."""
        return all(component in self.components for component in components)

    @property
    def is_complete(self) -> bool:
        """Whether residual stream, attention and MLP are proved."""
        return self.has(RESIDUAL + ATTENTION + MLP)


def prove(module: str, model_type: str = "") -> Proved:
    """Hooks a tiny model of the module and runs its self-test; `model_type` is that of its config, if it is another."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            architecture = importlib.import_module(f"mlx_lm.models.{module}")
            config = tiny_config(module)
            mx.random.seed(0)
            model = architecture.Model(architecture.ModelArgs.from_dict(config))
            mx.eval(model.parameters())
            text_config: dict[str, Any] = config.get("text_config", config)
            layout = Layout(model, {**text_config, "model_type": model_type or module})
            verdict = self_test.run(layout, VOCABULARY)
    except SystemExit:
        return Proved(module, failure=f"its import ends Python: {' '.join(said.getvalue().split())}")
    except Exception as error:
        message = _METAL if "No Metal back-end" in str(error) else f"{type(error).__name__}: {error}"
        return Proved(module, failure=message)
    proved = Proved(module, layers=layout.num_layers, identities={check.name for check in verdict.identities})
    for state in layout.states:
        name = state.point.component + (".input" if state.point.is_input else "")
        if not state.reason:
            proved.components.setdefault(name, set()).add(state.point.layer)
        else:
            proved.reasons.setdefault(_NUMBERS.sub("", state.reason), set()).add(name)
    return proved
