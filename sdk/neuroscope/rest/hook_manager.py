"""Hooks that the service behind a gateway keeps under an id, from their registration to their end."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from neuroscope.errors import InvalidRequestError, UnknownIdError
from neuroscope.rest.gateway import GatewayConnection
from neuroscope.rest.hook_spec import ActivationHookSpec

HookSpecLike: TypeAlias = "ActivationHookSpec | Mapping[str, Any]"
HOOKS = "/v1/activations/hooks"
"""The route."""


class HookManager:
    """Registers, lists and clears hooks. They belong to the service: every client of it sees them.

    Args:
        gateway: the connection.
    """

    def __init__(self, gateway: GatewayConnection) -> None:
        self._gateway = gateway

    def register(self, hook_specs: Sequence[HookSpecLike], *, model_id: str = "") -> list[str]:
        """Registers hooks, all of them or none; returns their ids, in order.

        Args:
            hook_specs: hooks, or REST objects of hooks.
            model_id: a loaded model to check them against; empty: only their names are checked.

        Raises:
            UnknownSiteError, UnavailableSiteError
            IdTakenError: an id is registered already.
        """
        body: dict[str, Any] = {"hooks": [to_api_format(spec) for spec in _several(hook_specs)]}
        if model_id:
            body["model"] = model_id
        return list(self._gateway.request("POST", HOOKS, body, idempotent=False)["registered_hooks"])

    def list(self) -> list[ActivationHookSpec]:
        """The registered hooks, in the order of their registration."""
        return [ActivationHookSpec.from_api_format(hook) for hook in self._gateway.request("GET", HOOKS)["hooks"]]

    def clear(self, hook_ids: Iterable[str] | None = None) -> list[str]:
        """Removes hooks, all if none is named; returns the ids of those removed.

        Raises:
            UnknownIdError: one of the ids is not registered; none is removed.
        """
        body = {} if hook_ids is None else {"hook_ids": _ids(hook_ids)}
        return list(self._gateway.request("DELETE", HOOKS, body, idempotent=False)["cleared_hooks"])

    @contextmanager
    def registered(self, hook_specs: Sequence[HookSpecLike], *, model_id: str = "") -> Generator[list[str]]:
        """Registers hooks for the length of a `with` block."""
        hook_ids = self.register(hook_specs, model_id=model_id)
        try:
            yield hook_ids
        finally:
            for hook_id in hook_ids:
                with suppress(UnknownIdError):  # cleared by somebody else in the meantime
                    self.clear([hook_id])


def to_api_format(hook: HookSpecLike) -> dict[str, Any]:
    """A hook as REST carries it."""
    return hook.to_api_format() if isinstance(hook, ActivationHookSpec) else dict(hook)


def _several(hook_specs: Sequence[HookSpecLike]) -> Sequence[HookSpecLike]:
    if isinstance(hook_specs, ActivationHookSpec | Mapping):
        raise InvalidRequestError("hook_specs is a list; put the hook in brackets", field="hook_specs")
    return hook_specs


def _ids(hook_ids: Iterable[str]) -> list[str]:
    return [hook_ids] if isinstance(hook_ids, str) else list(hook_ids)
