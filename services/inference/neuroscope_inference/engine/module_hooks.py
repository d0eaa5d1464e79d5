"""Intercepting the call of one module by a class swap, underneath the hooks that `hook_plan` installs.

Parameters, paths and isinstance stay as they were. The two swaps stack: what is intercepted here may be hooked there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.nn as nn

Call = Callable[..., Any]
Interception = Callable[[nn.Module, Call, tuple[Any, ...], dict[str, Any]], Any]
"""(module, its own call, arguments, keyword arguments) -> what the call returns."""

HOOK, INTERCEPTION = "_neuroscope_hook", "_neuroscope_interception"
"""Attributes of modules whose class has been swapped by `hook_plan` and here."""
_swapped_classes: dict[type[nn.Module], type[nn.Module]] = {}


def intercept(module: nn.Module, interception: Interception) -> None:
    """Calls of the module go through the interception, once and for all. A later one takes its place."""
    if not hasattr(module, INTERCEPTION):
        plain = type(module)
        if plain not in _swapped_classes:
            _swapped_classes[plain] = _intercepted_class(plain)
        module.__class__ = _swapped_classes[plain]
    object.__setattr__(module, INTERCEPTION, interception)


def release(network: nn.Module) -> None:
    """Takes hooks and interceptions off every module of a model that nobody will run again.

    They refer to the modules that refer to them: the weights would stay until Python's garbage collector comes by.
    """
    for module in network.modules():
        for attribute in (HOOK, INTERCEPTION):
            if attribute in vars(module):
                object.__delattr__(module, attribute)
                module.__class__ = type(module).__bases__[0]


def _intercepted_class(plain: type[nn.Module]) -> type[nn.Module]:
    call: Call = plain.__call__

    def intercepted_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._neuroscope_interception(self, call, args, kwargs)

    return type(plain.__name__, (plain,), {"__call__": intercepted_call, "__module__": plain.__module__})
