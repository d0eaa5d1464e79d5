"""The gateway's REST interface as Python classes, under the names that its users know.

    from neuroscope.rest import ActivationHookSpec, RESTActivationCaptureClient

    with RESTActivationCaptureClient("http://127.0.0.1:8080") as client:
        client.load_model("models/neuroscope-tiny")
        hooks = client.create_activation_hooks([ActivationHookSpec("transformer.h.2", "residual", "layer_2_residual")])
        result = client.generate_with_activations([{"role": "user", "content": "Hello!"}], hooks, max_tokens=8)
        result.get_activations_by_layer(2)[0].data  # numpy

It speaks HTTP and nothing else. Whoever reaches the inference service itself has more, and faster, with
`neuroscope.Client`. Errors are those of `neuroscope.errors`.
"""

from neuroscope.rest.architecture import HookPoint, ModelArchitecture, ModelLoadResult
from neuroscope.rest.capture_manager import CaptureManager, KeptCapture, KeptTensor
from neuroscope.rest.captured import CapturedActivation, join
from neuroscope.rest.client import RESTActivationCaptureClient
from neuroscope.rest.generation import Choice, GenerationWithActivations, StreamingResult, Usage
from neuroscope.rest.hook_manager import HookManager
from neuroscope.rest.hook_spec import ActivationHookSpec, ValidationResult
from neuroscope.rest.model_manager import ModelManager
from neuroscope.rest.neuroscope_data import NeuroScopeData
from neuroscope.rest.preset_manager import Preset, PresetManager, Scenario, ScenarioRequest, UnavailableHook
from neuroscope.rest.serializer import DataFormat, DataSerializer

__all__ = [
    "ActivationHookSpec",
    "CaptureManager",
    "CapturedActivation",
    "Choice",
    "DataFormat",
    "DataSerializer",
    "GenerationWithActivations",
    "HookManager",
    "HookPoint",
    "KeptCapture",
    "KeptTensor",
    "ModelArchitecture",
    "ModelLoadResult",
    "ModelManager",
    "NeuroScopeData",
    "Preset",
    "PresetManager",
    "RESTActivationCaptureClient",
    "Scenario",
    "ScenarioRequest",
    "StreamingResult",
    "UnavailableHook",
    "Usage",
    "ValidationResult",
    "join",
]
