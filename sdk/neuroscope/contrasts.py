"""Directions between the activations of two sets of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
from google.protobuf import json_format

from neuroscope.activations.cache import ActivationCache
from neuroscope.aio import AsyncClient
from neuroscope.client import Client
from neuroscope.directions.direction import Direction
from neuroscope.directions.directions import Directions
from neuroscope.directions.finding import METHODS, Matrix, find, separation
from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.prompts import Prompt
from neuroscope.vocabulary.sites import Point

ROWS = 16
"""Prompts of one request."""
Progress = Callable[[int, int], None]
"""Called with the number of captured prompts and of all prompts."""


def contrast(
    client: Client,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    component: str = "resid_post",
    *,
    layers: Sequence[int] | None = None,
    method: str = "mean_difference",
    position: int | None = -1,
    model_id: str = "",
    progress: Progress = lambda done, count: None,
) -> Directions:
    """The directions from one set of prompts to another, with their accuracy on held-out prompts.

    Args:
        client: client of the model's service.
        positive, negative: prompts, in any form of `neuroscope.vocabulary.prompts`; pairs for `principal_component`.
        component: a component without heads: `resid_post`, `mlp_out`, `mlp_neurons`, ...
        layers: from 0, negative from the end; None: all.
        method: `mean_difference`, `principal_component` or `probe`; see `neuroscope.directions.finding`.
        position: of every prompt, negative from its end; None: the mean over its positions.
        model_id: empty: the one loaded first.
        progress: called with the progress.

    Raises:
        InvalidRequestError: a set is empty, the method needs pairs, or the component has heads.
        UnknownSiteError, UnavailableSiteError: as `Client.capture`.
    """
    finder = _Finder(positive, negative, component, layers, method, position)
    for prompts in finder.requests(progress):
        finder.take(client.capture(prompts, finder.hooks, model_id=model_id))
    return finder.found()


async def contrast_async(
    client: AsyncClient,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    component: str = "resid_post",
    *,
    layers: Sequence[int] | None = None,
    method: str = "mean_difference",
    position: int | None = -1,
    model_id: str = "",
    progress: Progress = lambda done, count: None,
) -> Directions:
    """As `contrast`."""
    finder = _Finder(positive, negative, component, layers, method, position)
    for prompts in finder.requests(progress):
        finder.take(await client.capture(prompts, finder.hooks, model_id=model_id))
    return finder.found()


class _Finder:
    """The prompts that are to be captured, and what has been."""

    def __init__(
        self,
        positive: Sequence[Prompt],
        negative: Sequence[Prompt],
        component: str,
        layers: Sequence[int] | None,
        method: str,
        position: int | None,
    ) -> None:
        for name, prompts in (("positive", positive), ("negative", negative)):
            if isinstance(prompts, str) or not len(prompts):
                raise InvalidRequestError(f"{name} is a list of prompts, and not empty", field=name)
        if method not in METHODS:
            valid = nearest(method, METHODS)
            raise InvalidRequestError(f"there is no method {method!r}; nearest: {', '.join(valid)}", field="method")
        if layers is not None and not len(layers):
            raise InvalidRequestError("layers selects nothing; leave it out to select all", field="layers")
        if method == "principal_component" and len(positive) != len(negative):
            raise InvalidRequestError(
                f"principal_component takes pairs, not {len(positive)} and {len(negative)} prompts", field="negative"
            )
        self._prompts = [*positive, *negative]
        self._positives = len(positive)
        self._method = method
        self._provenance: dict[str, Any] = {
            "method": method,
            "position": position,
            "positive": [_plain(prompt) for prompt in positive],
            "negative": [_plain(prompt) for prompt in negative],
            "neuroscope": _version(),
        }
        positions = None if position is None else [position]
        self.hooks = [Hook(component, layer, positions=positions) for layer in layers or [None]]
        self._rows: dict[Point, list[Matrix]] = {}

    def requests(self, progress: Progress) -> Iterator[list[Prompt]]:
        """The prompts of each request."""
        count = len(self._prompts)
        for start in range(0, count, ROWS):
            progress(start, count)
            yield self._prompts[start : start + ROWS]
        progress(count, count)

    def take(self, cache: ActivationCache) -> None:
        """Keeps a vector of each row and point."""
        self._provenance["model_id"] = cache.model_id
        for activation in cache.by_name().values():
            if (
                list(activation.axes[:2]) != [tensor_pb2.AXIS_BATCH, tensor_pb2.AXIS_POSITION]
                or len(activation.axes) != 3
            ):
                raise InvalidRequestError(
                    f"{activation.point} has axes besides positions and width; a direction is a vector",
                    field="component",
                )
            kept = self._rows.setdefault(activation.point, [])
            kept += [activation.row(row)[0].astype(np.float64).mean(0) for row in activation.rows]

    def found(self) -> Directions:
        """The directions."""
        found: dict[str, Direction] = {}
        for point, rows in self._rows.items():
            positives, negatives = np.stack(rows[: self._positives]), np.stack(rows[self._positives :])
            vector = find(self._method, positives, negatives)
            middle = vector / np.linalg.norm(vector) @ (positives.mean(0) + negatives.mean(0)) / 2
            told = separation(self._method, positives, negatives)
            found[str(point)] = Direction(point, vector.astype(np.float32), told, float(middle))
        return Directions(found, self._provenance)


def _plain(prompt: Any) -> Any:
    """A prompt as JSON has it."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, pb.Prompt):
        return json_format.MessageToDict(prompt, preserving_proto_field_name=True)
    entries: Iterable[Any] = prompt
    return [dict(cast("Mapping[str, Any]", entry)) if isinstance(entry, Mapping) else int(entry) for entry in entries]


def _version() -> str:
    try:
        return version("neuroscope-mlx")
    except PackageNotFoundError:
        return "0.0.0"
