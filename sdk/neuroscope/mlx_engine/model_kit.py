"""A loaded model in this process, with hooks that stay registered from one generation to the next."""

from __future__ import annotations

from types import TracebackType

from neuroscope.client import Client
from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.mlx_engine import engine
from neuroscope.mlx_engine.activation_hooks import (
    MAX_CAPTURED_BYTES,
    ActivationHookManager,
    ActivationHookSpec,
    CapturedActivation,
    to_spec,
)
from neuroscope.rest.hook_manager import HookSpecLike
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.model_info import ModelInfo


class ModelKit:
    """What `load_model` returns. Close it, or leave its `with` block, to free the model; a script's end does so too.

    Attributes:
        model_id: name of the model in the engine.
        hooks: registered hooks, and what they captured (`ActivationHookManager`).

    Args:
        client: of the engine that has the model.
        model_id: its name there.
        max_captured_bytes: most bytes of what registered hooks captured that are kept; what is older goes first.
        kv_bits, kv_group_size: how keys and values are kept, as in `Client.generate`.
    """

    def __init__(
        self,
        client: Client,
        model_id: str,
        *,
        max_captured_bytes: int = MAX_CAPTURED_BYTES,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
    ) -> None:
        self.client = client
        self.model_id = model_id
        self.kv_bits, self.kv_group_size = kv_bits, kv_group_size
        self.hooks = ActivationHookManager(max_captured_bytes)
        self._info: ModelInfo | None = None
        self._closed = False
        engine.acquire(model_id)

    @property
    def info(self) -> ModelInfo:
        """Shape of the model, and every point of it that can be hooked."""
        if self._info is None:
            self._info = self.client.model(self.model_id)
        return self._info

    def close(self) -> None:
        """Frees the model, unless another kit has it too; closing twice is closing once."""
        if not self._closed:
            self._closed = True
            engine.release(self.model_id)

    def __enter__(self) -> ModelKit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ModelKit {self.model_id}, {len(self.hooks.specs)} hooks>"

    # Hooks that stay.

    def register_activation_hook(
        self,
        layer_name: str | HookSpecLike,
        component: str = "",
        hook_id: str = "",
        *,
        capture_input: bool = False,
        capture_output: bool = True,
    ) -> str:
        """Registers a hook for every generation from now on; returns its id.

        Args:
            layer_name: the layer in any common spelling; or the whole hook, as `ActivationHookSpec` or REST object.
            component: a `ComponentType`, or a name of the vocabulary.
            hook_id: name in results; empty: `{layer_name}_{component}`.
            capture_input, capture_output: which sides.

        Raises:
            UnknownSiteError, UnavailableSiteError: the model has no such point.
            IdTakenError: a hook of that id is registered.
        """
        if isinstance(layer_name, str):
            spec = ActivationHookSpec(layer_name, component, hook_id, capture_input, capture_output)
        elif component or hook_id:
            raise InvalidRequestError("a whole hook has its component and id in itself", field="component")
        else:
            spec = to_spec(layer_name)
        self._check(spec)
        return self.hooks.register(spec)

    def unregister_activation_hook(self, hook_id: str) -> None:
        """Removes a hook.

        Raises:
            UnknownIdError: no hook of that id is registered.
        """
        self.hooks.unregister(hook_id)

    def clear_activation_hooks(self) -> None:
        """Removes all hooks."""
        self.hooks.clear()

    def get_captured_activations(self) -> dict[str, list[CapturedActivation]]:
        """What registered hooks captured since it was cleared last, by hook id."""
        return self.hooks.captured()

    def clear_captured_activations(self) -> None:
        """Lets go of what registered hooks captured."""
        self.hooks.clear_captured()

    def _check(self, spec: ActivationHookSpec) -> None:
        for message in spec.to_messages():
            for point in sites.resolve(message.site, self.info.model.num_layers, field="hook"):
                found = self.info.point(str(point))
                if not found.available:
                    raise UnavailableSiteError(f"{self.model_id} has no {point}: {found.reason}", field="hook")
