"""The hooks of a request as messages of the contract, and the names of captured tensors in the response.

A request for `attention` returns `attention`, not the service's own name `attn_out`. An error about
`hooks[2].site.component` names `activation_hooks[1].component`, the user's own parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from neuroscope.errors import MLXIntegrationError, UnknownSiteError
from neuroscope.v1 import inference_pb2, site_pb2, tensor_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.hooks import from_rest
from neuroscope_gateway.schemas.hooks import ActivationHook, FeatureReduction

_INDEXED = re.compile(r"(hooks|hook_ids)\[(\d+)\](.*)")
_BIAS = re.compile(r"logit_bias\[\d+\]")
_FEATURES = ".reduction.features"
_SITE_FIELDS = {
    ".hook_id": "hook_id",
    ".site.component": "component",
    ".site.layer": "layer_name",
    ".site.layer_name": "layer_name",
    ".site.side": "capture_input",
}


@dataclass(frozen=True, slots=True)
class TensorLabel:
    """The names of a captured tensor in the response."""

    component: str
    layer_name: str
    is_input: bool
    param: str  # REST parameter of its hook


class RequestHooks:
    """Hook objects and ids of registered hooks, in the order of the request.

    Attributes:
        specs: messages of the hook objects; a hook of both sides is two messages.
        hook_ids: ids of registered hooks.

    Args:
        entries: hook objects and ids.
        list_name: REST parameter of the list; empty if the body is the list, or one hook.
        single: the body is one hook.
    """

    def __init__(
        self, entries: Sequence[ActivationHook | str], list_name: str = "activation_hooks", *, single: bool = False
    ) -> None:
        self.specs: list[inference_pb2.HookSpec] = []
        self.hook_ids: list[str] = []
        self._params: dict[str, list[str]] = {"hooks": [], "hook_ids": []}
        self._registered: list[tuple[inference_pb2.HookSpec, str]] = []
        for index, entry in enumerate(entries):
            param = "" if single else f"{list_name}[{index}]"
            if isinstance(entry, str):
                self.hook_ids.append(entry)
                self._params["hook_ids"].append(param)
            else:
                specs = from_rest(entry.model_dump(exclude_none=True), field=param)
                self.specs.extend(specs)
                self._params["hooks"].extend([param] * len(specs))

    def add_registered(self, registered: Sequence[inference_pb2.HookSpec]) -> None:
        """Adds the registered hooks, so that their tensors have the names of their registration."""
        params = dict(zip(self.hook_ids, self._params["hook_ids"], strict=True))
        self._registered = [(spec, params[spec.hook_id]) for spec in registered if spec.hook_id in params]

    def param(self, field: str) -> str | None:
        """The REST parameter of a field of the contract in hooks; None for other fields."""
        match = _INDEXED.fullmatch(field)
        if match is None:
            return None
        kind, index, rest = match[1], int(match[2]), match[3]
        params = self._params[kind]
        base = params[index] if index < len(params) else kind
        name = _SITE_FIELDS.get(rest, "")
        if rest.startswith(_FEATURES):
            name = f"features{rest.removeprefix(_FEATURES)}"
        return f"{base}.{name}".strip(".")

    def label(self, spec: tensor_pb2.TensorSpec) -> TensorLabel:
        """The names of a tensor of the plan."""
        wanted = sites.Point.from_message(spec.site)
        candidates = [*zip(self.specs, self._params["hooks"], strict=True), *self._registered]
        if spec.dictionary_id:
            param = next(
                (p for hook, p in candidates if hook.reduction.features.dictionary_id == spec.dictionary_id), ""
            )
            return TensorLabel(wanted.component, spec.layer_name, wanted.is_input, param)
        for ids in ({spec.hook_id}, {""}):  # the service gave an id to hooks without one
            for hook, param in candidates:
                if hook.hook_id in ids and _includes(hook.site, wanted):
                    is_input = hook.site.side == site_pb2.SIDE_INPUT
                    return TensorLabel(hook.site.component, spec.layer_name, is_input, param)
        return TensorLabel(wanted.component, spec.layer_name, wanted.is_input, f"activation_hooks[{spec.hook_id!r}]")


def to_rest_hooks(specs: Sequence[inference_pb2.HookSpec]) -> list[ActivationHook]:
    """Registered hooks in the REST format; both sides of a hook are one object."""
    sides: dict[tuple[str, str, str], set[bool]] = {}
    found: list[ActivationHook] = []
    for spec in specs:
        site = spec.site
        if spec.reduction.HasField("features"):
            found.append(ActivationHook(hook_id=spec.hook_id, features=_feature_reduction(spec.reduction.features)))
            continue
        layer_name = site.layer_name or (f"model.layers.{site.layer}" if site.HasField("layer") else "")
        key = (spec.hook_id, layer_name, site.component)
        sides.setdefault(key, set()).add(site.side == site_pb2.SIDE_INPUT)
    return found + [
        ActivationHook(
            layer_name=layer_name or None,
            component=component,
            hook_id=hook_id,
            capture_input=True in inputs,
            capture_output=False in inputs,
        )
        for (hook_id, layer_name, component), inputs in sides.items()
    ]


def _feature_reduction(reduction: inference_pb2.FeatureReduction) -> FeatureReduction:
    return FeatureReduction(
        dictionary_id=reduction.dictionary_id,
        top_count=reduction.top_count,
        features=list(reduction.features),
        all=reduction.all,
        l0=reduction.l0,
        error=reduction.error,
    )


def rest_param(
    field: str, hooks: RequestHooks, aliases: Mapping[str, str], prompt_param: Callable[[str], str] = str
) -> str:
    """The REST parameter of a field of the contract's request.

    Args:
        field: a path such as `prompts[0].chat.messages[1].role`, `sampling.max_tokens` or `hooks[0].site.layer`.
        hooks: the hooks of the request.
        aliases: REST names that differ from the last part of the field.
        prompt_param: returns the REST parameter of a field of the prompts.
    """
    if found := hooks.param(field):
        return found
    if field.startswith("prompt"):
        return prompt_param(field)
    name = _BIAS.sub("logit_bias", field.removeprefix("sampling."))
    return aliases.get(name, name)


def rename_param(error: MLXIntegrationError, param: str) -> None:
    """Replaces the field of the contract in an error, and in its message, by a REST parameter."""
    error.message = error.message.replace(error.field, param)
    error.field = param


def _includes(site: site_pb2.Site, wanted: sites.Point) -> bool:
    """Whether a site includes a hook point."""
    try:
        points = sites.resolve(site, None)
    except UnknownSiteError:
        return False
    return any(
        (point.component, point.is_input) == (wanted.component, wanted.is_input)
        and (point.layer is None or point.layer < 0 or point.layer == wanted.layer)
        for point in points
    )
