"""NeuroScope's side of mlx-engine: a client that gives plain JSON, and a bridge to NeuroScope's format.

    from neuroscope.integration import LMStudioNeuroScopeClient, NeuroScopeActivationBridge

    with LMStudioNeuroScopeClient() as client:
        client.load_model("models/neuroscope-tiny")
        hooks = NeuroScopeActivationBridge.create_hook_specs_for_circuit_analysis(4)
        result = client.generate_with_activations([{"role": "user", "content": "Hello!"}], hooks, max_tokens=8)
        NeuroScopeActivationBridge.convert_activations_for_neuroscope(result["activations"])

`neuroscope.rest` has the same as classes, with numpy arrays.
"""

from neuroscope.integration.bridge import NeuroScopeActivationBridge
from neuroscope.integration.client import LMStudioNeuroScopeClient
from neuroscope.integration.smalltalk import generate_neuroscope_smalltalk_interface

__all__ = ["LMStudioNeuroScopeClient", "NeuroScopeActivationBridge", "generate_neuroscope_smalltalk_interface"]
