"""What to capture, in the NeuroScope REST format: a layer, one of its components, an id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuroscope.errors import InvalidRequestError, MLXIntegrationError, UnknownSiteError
from neuroscope.rest.architecture import ModelArchitecture
from neuroscope.v1 import inference_pb2, site_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.hooks import from_rest
from neuroscope.vocabulary.sites import Point


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Whether a hook can be used with a model. True where it can."""

    is_valid: bool
    errors: tuple[str, ...] = ()
    """What is wrong with it, each in words to act on."""
    points: tuple[Point, ...] = ()
    """What it captures."""

    def __bool__(self) -> bool:
        return self.is_valid


@dataclass(frozen=True, slots=True)
class ActivationHookSpec:
    """A hook. Two of equal fields are equal."""

    layer_name: str
    """The layer in any common spelling: transformer.h.5, model.layers.5, blocks.5; empty: every layer."""
    component: str
    """residual, attention, mlp, embedding, layernorm, attention_scores, attention_pattern, key, query, value, or a
    finer name of the vocabulary."""
    hook_id: str = ""
    """Name in results; empty: made of the layer and the component, such as transformer.h.5_residual."""
    capture_input: bool = False
    """Captures what the component reads."""
    capture_output: bool = True
    """Captures what it writes."""

    def __post_init__(self) -> None:
        component = str(self.component)  # members of an enum too
        if not component:
            raise InvalidRequestError("the component is missing", field="component")
        if not (self.capture_input or self.capture_output):
            raise InvalidRequestError("neither capture_input nor capture_output is set", field="capture_output")
        object.__setattr__(self, "component", component)
        object.__setattr__(self, "hook_id", self.hook_id or "_".join(filter(None, (self.layer_name, component))))

    def validate_specification(self, model_architecture: ModelArchitecture) -> ValidationResult:
        """Whether a model has what the hook captures; an error of the vocabulary's names is part of the answer."""
        errors: list[str] = []
        points: list[Point] = []
        for site in self._sites():
            try:
                found = sites.resolve(site, model_architecture.num_layers)
            except UnknownSiteError as error:
                errors.append(error.message)
                continue
            points.extend(found)
            for point in found:
                known = model_architecture.find(point)
                if known is None or not known.available:
                    why = known.reason if known is not None else f"{model_architecture.model_id} does not have it"
                    errors.append(f"{point}: {why}")
        return ValidationResult(not errors, tuple(dict.fromkeys(errors)), tuple(points))

    def to_api_format(self) -> dict[str, Any]:
        """The hook as REST carries it."""
        return {
            "layer_name": self.layer_name or None,
            "component": self.component,
            "hook_id": self.hook_id,
            "capture_input": self.capture_input,
            "capture_output": self.capture_output,
        }

    @classmethod
    def from_api_format(cls, data: Mapping[str, Any]) -> ActivationHookSpec:
        """The hook of a REST object.

        Raises:
            InvalidRequestError: it has a field that hooks do not have, or lacks its component.
        """
        from_rest(data)  # checks the fields
        return cls(
            layer_name=data.get("layer_name") or "",
            component=data.get("component") or "",
            hook_id=data.get("hook_id") or "",
            capture_input=bool(data.get("capture_input", False)),
            capture_output=bool(data.get("capture_output", True)),
        )

    def to_messages(self) -> list[inference_pb2.HookSpec]:
        """The hook as gRPC carries it: one message for each side."""
        return [inference_pb2.HookSpec(hook_id=self.hook_id, site=site) for site in self._sites()]

    def side_of(self, point: Point) -> bool | None:
        """Whether a captured point is the input that the hook asked for, or its output; None: it is neither."""
        for site in self._sites():
            if is_part(site, point):
                return site.side == site_pb2.SIDE_INPUT
        return None

    def _sites(self) -> list[site_pb2.Site]:
        sides = [(site_pb2.SIDE_INPUT, self.capture_input), (site_pb2.SIDE_OUTPUT, self.capture_output)]
        return [
            site_pb2.Site(component=self.component, layer_name=self.layer_name, side=side)
            for side, wanted in sides
            if wanted
        ]


def is_part(site: site_pb2.Site, point: Point) -> bool:
    """Whether a site, in whatever spelling, is or includes a point of a model."""
    try:
        (found,) = sites.resolve(site, None)
    except MLXIntegrationError:
        return False
    same = (found.component, found.is_input) == (point.component, point.is_input)
    return same and (found.layer is None or found.layer < 0 or found.layer == point.layer)


def point_of(component: str, layer_name: str, is_input: bool) -> Point:
    """The point of a captured activation, from the words that name it.

    Raises:
        UnknownSiteError: the component is none of the vocabulary.
    """
    side = site_pb2.SIDE_INPUT if is_input else site_pb2.SIDE_OUTPUT
    try:
        (point,) = sites.resolve(site_pb2.Site(component=component, layer_name=layer_name, side=side), None)
    except UnknownSiteError:  # a module's path that is no layer's name, as of an embedding
        (point,) = sites.resolve(site_pb2.Site(component=component, side=side), None)
    return point
