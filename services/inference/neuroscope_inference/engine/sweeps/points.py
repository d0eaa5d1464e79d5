"""The points of an experiment: one component in the layers that are named, or in all that have it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary.sites import Point, resolve
from neuroscope_inference.engine.model import LoadedModel


def resolve_points(model: LoadedModel, site: site_pb2.Site, layers: Sequence[int], path: str) -> list[Point]:
    """The points of a site, all of them there.

    Args:
        model: what has them.
        site: the component; with a layer, that layer alone.
        layers: where the site names none; empty: every layer that has the component.
        path: of the message that has the fields `site` and `layers`.

    Raises:
        UnknownSiteError, UnavailableSiteError: a layer does not have the component.
        InvalidRequestError: a layer is out of range, or named twice.
    """
    layout = model.layout
    points = resolve(site, layout.num_layers, field=f"{path}.site")
    if not layers:
        if len(points) > 1:
            points = [point for point in points if not layout.state(point).reason] or points[:1]
    elif len(points) == 1:
        raise InvalidRequestError("the site names its layer; leave out the layers", field=f"{path}.layers")
    else:
        points = [points[index] for index in check_indices(layers, layout.num_layers, "layer", f"{path}.layers")]
    for point in points:
        model.require_point(point, f"{path}.site.component")
    return points


def check_indices(indices: Sequence[int], count: int, name: str, path: str, owner: str = "the model has") -> list[int]:
    """Indices counted from 0.

    Raises:
        InvalidRequestError: there are none, one is out of range, or one is there twice.
    """
    if not indices:
        raise InvalidRequestError(f"no {name} is named", field=path)
    for index in indices:
        if not -count <= index < count:
            raise InvalidRequestError(f"{name} {index} is out of range: {owner} {name}s 0 to {count - 1}", field=path)
    found = [index % count for index in indices]
    if len(set(found)) < len(found):
        twice = next(index for index, other in itertools.pairwise(sorted(found)) if index == other)
        raise InvalidRequestError(f"{name} {twice} is named twice", field=path)
    return found
