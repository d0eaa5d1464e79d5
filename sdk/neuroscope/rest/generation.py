"""What a generation gives: the answer, its tokens, and what the hooks saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuroscope.errors import UnknownSiteError
from neuroscope.rest.captured import CapturedActivation, join
from neuroscope.rest.hook_spec import point_of
from neuroscope.rest.neuroscope_data import NeuroScopeData
from neuroscope.vocabulary.sites import Point

_METADATA = ("id", "created", "model", "capture_id")


@dataclass(frozen=True, slots=True)
class Choice:
    """A finished answer."""

    index: int
    message: dict[str, str]
    """role and content."""
    finish_reason: str
    """`stop` or `length`."""
    logprobs: dict[str, Any] | None = None
    """Log-probabilities as OpenAI's clients know them, where they were asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(slots=True)
class GenerationWithActivations:
    """An answer with its activations."""

    choices: list[Choice]
    activations: dict[str, list[CapturedActivation]]
    """By hook id, in step order: the prefill's (in pieces, if it ran in chunks), then one for each step."""
    usage: Usage
    generation_metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """id, model, created (Unix time in seconds), and capture_id where the stream is kept."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{hook_id}: {len(several)}" for hook_id, several in self.activations.items())
        return f"GenerationWithActivations({self.text!r}, {self.usage}, activations {{{counts}}})"

    @property
    def text(self) -> str:
        """What was generated."""
        return self.choices[0].message["content"] if self.choices else ""

    def get_activations_by_layer(self, layer: int) -> list[CapturedActivation]:
        """What was captured in a layer, from 0, in the order of the hooks."""
        return [one for one in self._all() if one.point.layer == layer]

    def get_activations_by_component(self, component: str) -> list[CapturedActivation]:
        """What was captured of a component, in the order of the hooks.

        Args:
            component: as hooks name it (`residual` gives its input and its output), or canonical (`resid_post`).
        """
        wanted = _points(component)
        return [one for one in self._all() if one.component == component or _anywhere(one.point) in wanted]

    def joined(self, hook_id: str, *, is_input: bool = False) -> CapturedActivation:
        """All steps of a hook as one activation, along the position axis.

        Raises:
            KeyError: no hook of that id captured anything on that side.
            DataConversionError: the hook saw several layers.
        """
        pieces = [one for one in self.activations[hook_id] if one.is_input == is_input]
        if not pieces:
            raise KeyError(f"{hook_id} captured no {'input' if is_input else 'output'}")
        return join(pieces)

    def export_for_neuroscope(self) -> NeuroScopeData:
        """The activations as NeuroScope takes them in."""
        told = {name: value for name, value in self.generation_metadata.items() if name != "model"}
        return NeuroScopeData.of(
            self.activations,
            model_info={"model_id": self.generation_metadata.get("model", "")},
            metadata={**told, "text": self.text, "prompt_tokens": self.usage.prompt_tokens},
        )

    @classmethod
    def from_api_format(cls, data: Mapping[str, Any]) -> GenerationWithActivations:
        """The answer of `/v1/chat/completions/with_activations`.

        Raises:
            DataConversionError: an activation does not fit its own description.
        """
        metadata = {name: data[name] for name in _METADATA if name in data}
        told = {"model": metadata.get("model", ""), "generation_id": metadata.get("id", "")}
        return cls(
            choices=[
                Choice(one["index"], dict(one["message"]), one["finish_reason"], one.get("logprobs"))
                for one in data["choices"]
            ],
            activations={
                hook_id: [CapturedActivation.from_api_format(one, told) for one in several]
                for hook_id, several in data.get("activations", {}).items()
            },
            usage=Usage(**data["usage"]),
            generation_metadata=metadata,
        )

    def _all(self) -> Iterable[CapturedActivation]:
        return (one for several in self.activations.values() for one in several)


@dataclass(slots=True)
class StreamingResult:
    """A token, with what was captured while it was computed. The last one of a stream has neither."""

    token: str
    """Text that became final with it; it may be empty."""
    activations: dict[str, CapturedActivation]
    """One by hook id; pieces of a prefill's chunks are joined. Where a hook sees several points their names go behind
    its id: `id.input` for the input of a hook that captures both sides, `id@model.layers.3` for one without a layer."""
    is_complete: bool
    """Whether the stream has ended."""
    generation_metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """id, model, created, step; at the end finish_reason and usage, a `Usage`."""

    def __repr__(self) -> str:
        end = ", complete" if self.is_complete else ""
        return f"StreamingResult({self.token!r}, activations of {list(self.activations)}{end})"

    @classmethod
    def from_api_format(cls, data: Mapping[str, Any], step: int) -> StreamingResult:
        """One line of the stream."""
        metadata: dict[str, Any] = {name: data[name] for name in _METADATA if name in data}
        choice = data["choices"][0]
        told = {"model": metadata.get("model", ""), "generation_id": metadata.get("id", ""), "step": step}
        is_complete = choice["finish_reason"] is not None
        if is_complete:
            metadata |= {"finish_reason": choice["finish_reason"], "usage": Usage(**data["usage"])}
        else:
            metadata["step"] = step
        if choice.get("logprobs"):
            metadata["logprobs"] = choice["logprobs"]
        activations: dict[str, CapturedActivation] = {}
        for hook_id, several in data.get("activations", {}).items():
            pieces = [CapturedActivation.from_api_format(one, told) for one in several]
            activations |= one_by_name(hook_id, pieces)
        return cls(choice["delta"].get("content", ""), activations, is_complete, metadata)


def one_by_name(hook_id: str, pieces: Sequence[CapturedActivation]) -> dict[str, CapturedActivation]:
    """A step's pieces of one hook, joined; by the hook's id, and by point where it sees several."""
    groups: dict[tuple[str, bool], list[CapturedActivation]] = {}
    for piece in pieces:
        groups.setdefault((piece.layer_name, piece.is_input), []).append(piece)
    several_layers = len({layer_name for layer_name, _ in groups}) > 1
    both_sides = len({is_input for _, is_input in groups}) > 1
    return {
        hook_id + (f"@{layer_name}" if several_layers else "") + (".input" if both_sides and is_input else ""): join(
            group
        )
        for (layer_name, is_input), group in groups.items()
    }


def _points(component: str) -> set[Point]:
    """The points that a name stands for, whatever the layer."""
    points: set[Point] = set()
    for is_input in (False, True):
        try:
            points.add(_anywhere(point_of(component, "", is_input)))
        except UnknownSiteError:
            continue
    return points


def _anywhere(point: Point) -> Point:
    return Point(point.component, None, point.is_input)
