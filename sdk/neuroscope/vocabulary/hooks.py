"""What to capture, as a value: `Hook`, and the short forms that the clients take for one.

    "resid_post"                                   every layer
    "attention_pattern.3"                          one layer
    "blocks.5.hook_resid_post"                     a TransformerLens name
    ("head_output", 3)                             component and layer
    Hook("attention_pattern", 3, heads=[0, 7], positions=slice(-1, None), dtype="float16")
    {"layer_name": "transformer.h.5", "component": "attention", "hook_id": "h5"}      the REST format
    {"features": {"dictionary_id": "sae", "top_count": 8}}      features of a dictionary, where it reads

Names are resolved by the service (`neuroscope.vocabulary.sites`); here they are only written down.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2, site_pb2
from neuroscope.vocabulary import reductions, sites
from neuroscope.vocabulary.reductions import Reduce
from neuroscope.vocabulary.selection import Positions, Steps, to_selector
from neuroscope.vocabulary.tensors import parse_dtype

REST_FIELDS = ("layer_name", "component", "hook_id", "capture_input", "capture_output", "features")


@dataclass(frozen=True, slots=True)
class Hook:
    """A site, the part of it that is wanted, and how it is sent."""

    component: str
    """Component name, REST name or TransformerLens name."""
    layer: int | None = None
    """Layer from 0, negative from the end; None: every layer, unless the name or layer_name carries one."""
    layer_name: str = ""
    """The layer in any common spelling, such as transformer.h.5."""
    hook_id: str = ""
    """Name in results; empty: made from the site."""
    is_input: bool = False
    """Captures what the module reads instead of what it writes."""
    heads: Sequence[int] = ()
    """Heads, from 0, negative from the end; empty: all."""
    positions: Positions = None
    """Token positions, negative from the end of the prompt; None: all."""
    steps: Steps = None
    """Steps of a generation, 0 the prefill; None: all."""
    dtype: str = ""
    """Type to cast to before sending; empty: as computed."""
    reduce: Reduce = None
    """What to send instead of the tensor: `mean`, `norm`, `{"top_k": 5}` or `{"project": directions}`; see
    `neuroscope.vocabulary.reductions`."""

    def to_message(self) -> inference_pb2.HookSpec:
        """The hook as the contract carries it."""
        site = sites.parse(self.component)
        if self.layer is not None:
            site.layer = self.layer
        if self.layer_name:
            site.layer_name = self.layer_name
        if self.is_input:
            site.side = site_pb2.SIDE_INPUT
        return inference_pb2.HookSpec(
            hook_id=self.hook_id,
            site=site if site.ListFields() else None,  # of features it may be left to their dictionary
            select=to_selector(self.heads, self.positions, self.steps),
            dtype=parse_dtype(self.dtype),
            reduction=reductions.to_message(self.reduce),
        )


HookLike: TypeAlias = "str | tuple[str, int] | Hook | Mapping[str, Any] | inference_pb2.HookSpec"


def to_messages(hooks: Sequence[HookLike]) -> list[inference_pb2.HookSpec]:
    """Hooks in any of their forms as messages; a REST hook that captures both sides becomes two.

    Raises:
        InvalidRequestError: an entry has none of the forms.
    """
    if isinstance(hooks, str):
        raise InvalidRequestError("hooks is a list; put the name in brackets", field="hooks")
    return [message for index, hook in enumerate(hooks) for message in _to_messages(hook, f"hooks[{index}]")]


def from_rest(hook: Mapping[str, Any], *, field: str = "hook") -> list[inference_pb2.HookSpec]:
    """The one or two hooks of a REST hook object, whose fields are `REST_FIELDS`."""
    unknown = sorted(set(hook) - set(REST_FIELDS))
    if unknown:
        raise InvalidRequestError(
            f"unknown field {unknown[0]!r}; valid: {', '.join(REST_FIELDS)}",
            field=f"{field}.{unknown[0]}",
            valid=REST_FIELDS,
        )
    if (features := hook.get("features")) is not None:
        return [_features_from_rest(hook, features, field)]
    sides = [
        side
        for side, wanted in (
            (site_pb2.SIDE_INPUT, hook.get("capture_input", False)),
            (site_pb2.SIDE_OUTPUT, hook.get("capture_output", True)),
        )
        if wanted
    ]
    if not sides:
        raise InvalidRequestError("neither capture_input nor capture_output is set", field=f"{field}.capture_output")
    names = [_rest_text(hook, name, field) for name in ("hook_id", "component", "layer_name")]
    hook_id, component, layer_name = names
    return [
        inference_pb2.HookSpec(
            hook_id=hook_id, site=site_pb2.Site(component=component, layer_name=layer_name, side=side)
        )
        for side in sides
    ]


def _features_from_rest(hook: Mapping[str, Any], features: Any, field: str) -> inference_pb2.HookSpec:
    """Features are where their dictionary reads; a hook of them names no site."""
    for name in ("component", "layer_name"):
        if hook.get(name):
            raise InvalidRequestError("features are where their dictionary reads", field=f"{field}.{name}")
    reduction = reductions.to_message({"features": features})
    hook_id = _rest_text(hook, "hook_id", field) or (reduction.features.dictionary_id if reduction else "")
    return inference_pb2.HookSpec(hook_id=hook_id, reduction=reduction)


def _to_messages(hook: HookLike, field: str) -> list[inference_pb2.HookSpec]:
    if isinstance(hook, inference_pb2.HookSpec):
        return [hook]
    if isinstance(hook, Mapping):
        return from_rest(hook, field=field)
    if isinstance(hook, str):
        hook = Hook(hook)
    elif not isinstance(hook, Hook):
        hook = Hook(*_component_and_layer(hook, field))
    try:
        return [hook.to_message()]
    except (TypeError, ValueError) as error:  # protobuf's: another type, or out of the range of its integers
        raise InvalidRequestError(f"{hook}: {error}", field=field) from None


def _component_and_layer(hook: Any, field: str) -> tuple[str, int]:
    try:
        component, layer = hook
        if isinstance(component, str):
            return component, operator.index(layer)
    except (TypeError, ValueError):
        pass
    raise InvalidRequestError(
        f"a hook is a name, (component, layer), a Hook or a REST hook object, not {hook!r}", field=field
    )


def _rest_text(hook: Mapping[str, Any], name: str, field: str) -> str:
    value = hook.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"{name} is a text, not {value!r}", field=f"{field}.{name}")
    return value or ""
