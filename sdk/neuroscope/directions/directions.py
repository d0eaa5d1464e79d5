"""Directions at several points, with provenance, stored as safetensors files.

A file has a tensor (width,) for each point, named after the point, such as `resid_post.5`. The metadata has one entry,
`neuroscope_directions`, a JSON object:

    {"format": 1, "provenance": {"model_id", "method", "position", "positive", "negative", "neuroscope"},
     "directions": {name: {"component", "layer", "is_input", "correct", "count", "middle"}}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from neuroscope.directions.direction import Direction
from neuroscope.directions.finding import Separation
from neuroscope.display import Displayable, show
from neuroscope.errors import DataConversionError, UnknownSiteError, nearest
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.counts import counted
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array
from neuroscope.wire import safetensors_file

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = 1
_KEY = "neuroscope_directions"


class Directions(Displayable, Mapping[str, Direction]):
    """Directions by the name of their point, lowest layer first.

    Attributes:
        provenance: model, method, position and prompts; empty if unknown.
    """

    def __init__(self, found: Mapping[str, Direction], provenance: Mapping[str, Any]) -> None:
        self._found = dict(found)
        self.provenance = dict(provenance)

    def __getitem__(self, name: str) -> Direction:
        if name not in self._found:
            valid = nearest(name, self._found)
            raise UnknownSiteError(f"there is no direction {name!r}; nearest: {', '.join(valid)}", valid=valid)
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        names = list(self._found)
        return f"Directions({counted(len(names), 'point')}, {names[0]} to {names[-1]}; table() and plot() show them)"

    @property
    def best(self) -> Direction:
        """The direction with the highest accuracy; the middle one of several."""
        most = max(-np.inf if np.isnan(d.separation.accuracy) else d.separation.accuracy for d in self.values())
        equals = [d for d in self.values() if d.separation.accuracy == most] or list(self.values())
        return equals[len(equals) // 2]

    def table(self) -> Table:
        """Accuracy, p-value and norm of each direction."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of accuracies and norms.

        Args:
            path: file to write; the suffix selects the format.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file."""
        from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

        described = {
            name: {
                "component": found.point.component,
                "layer": found.point.layer,
                "is_input": found.point.is_input,
                "correct": found.separation.correct,
                "count": found.separation.count,
                "middle": found.middle if np.isfinite(found.middle) else None,
            }
            for name, found in self.items()
        }
        description = {"format": FORMAT, "provenance": self.provenance, "directions": described}
        arrays = {name: np.ascontiguousarray(found.vector) for name, found in self.items()}
        save_file(arrays, Path(path), metadata={_KEY: json.dumps(description)})

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Reads a safetensors file. In files of other tools, tensors must be named after points.

        Raises:
            DataConversionError: the file cannot be read, a tensor is not a finite vector, or a name is not a point.
        """
        try:
            arrays, metadata = safetensors_file.read(Path(path).read_bytes())
            description = cast("dict[str, Any]", json.loads(metadata[_KEY])) if _KEY in metadata else {}
        except OSError as error:
            raise DataConversionError(f"{path}: {error.strerror or error}", field="path") from None
        except (ValueError, KeyError, TypeError, IndexError):
            raise DataConversionError(f"{path} is no safetensors file", field="path") from None
        if description.get("format", FORMAT) != FORMAT:
            raise DataConversionError(f"{path} has the format {description['format']}, not {FORMAT}", field="path")
        described = description.get("directions", {})
        found = {name: _read(path, name, array, described.get(name)) for name, array in arrays.items()}
        order = sorted(found, key=lambda name: (found[name].point.component, found[name].point.layer or 0))
        return cls({name: found[name] for name in order}, description.get("provenance", {}))


def _read(path: str | Path, name: str, array: Array, described: Mapping[str, Any] | None) -> Direction:
    vector = np.asarray(array, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise DataConversionError(f"{name!r} in {path} is no vector of finite numbers, or all are 0", field="path")
    if described is not None:
        point = Point(described["component"], described["layer"], described["is_input"])
        middle = described["middle"]
        return Direction(
            point,
            vector,
            Separation(described["correct"], described["count"]),
            float("nan") if middle is None else middle,
        )
    try:
        return Direction(sites.resolve(sites.parse(name), None)[0], vector)
    except UnknownSiteError as error:
        raise DataConversionError(f"{name!r} in {path} names no point: {error}", field="path") from None
