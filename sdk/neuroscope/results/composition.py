"""The result of measuring composition: how much each head can read of what each earlier head writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.display import show
from neuroscope.errors import InvalidRequestError
from neuroscope.labelled_array import LabelledArray
from neuroscope.results.result import AnalysisResult
from neuroscope.v1 import composition_pb2 as pb
from neuroscope.vocabulary.counts import counted

if TYPE_CHECKING:
    from rich.table import Table

Head = tuple[int, int]
"""Layer and head."""
KINDS = ("q", "k", "v")
_DIMS = ("writer_layer", "writer_head", "reader_layer", "reader_head")
_OF = {pb.COMPOSITION_KIND_Q: "q", pb.COMPOSITION_KIND_K: "k", pb.COMPOSITION_KIND_V: "v"}


class CompositionResult(
    AnalysisResult[
        pb.MeasureCompositionRequest, pb.CompositionPlan, pb.MeasureCompositionResponse, pb.CompositionResult
    ]
):
    """Composition scores of heads (Elhage et al. 2021).

    `result["k_composition"]` is an array over writer_layer, writer_head, reader_layer and reader_head; NaN unless the
    writer is in an earlier layer. The score is 1 if the writer's output lies entirely in the direction that the reader
    reads most. `baseline(kind)` is the score of random heads of the same shapes.

    Args:
        request: the request of the measurement.
    """

    rpc = "MeasureComposition"
    noun = "a measurement of composition"
    request_type = pb.MeasureCompositionRequest
    response_type = pb.MeasureCompositionResponse

    def _on_partial(self, response: pb.MeasureCompositionResponse) -> None:
        """The result consists of arrays only."""

    def _on_result(self, end: pb.CompositionResult) -> None:
        """The result consists of arrays only."""

    def __getitem__(self, name: str) -> LabelledArray:
        _, values = self._stacked(name)
        plan = self._require_plan()
        layers, heads = list(plan.layers), list(range(plan.head_count))
        return LabelledArray(name, values[0], _DIMS, dict(zip(_DIMS, (layers, heads) * 2, strict=True)))

    def __iter__(self) -> Iterator[LabelledArray]:
        return (self[name] for name in self.names)

    def baseline(self, kind: str) -> tuple[float, float]:
        """Mean and standard deviation of the scores of random heads.

        Args:
            kind: q, k or v.

        Raises:
            InvalidRequestError: the kind is unknown, or the measurement is not complete.
        """
        self._check(kind)
        found = {_OF[each.kind]: each for each in (self.end.baselines if self.end else ())}
        if kind not in found:
            raise InvalidRequestError("the measurement is not complete: it has no baseline", field="result")
        return found[kind].mean, found[kind].standard_deviation

    def excess(self, kind: str) -> LabelledArray:
        """Scores of a kind (q, k or v) minus the mean score of random heads."""
        self._check(kind)
        grid = self[f"{kind}_composition"]
        return replace(grid, name=f"{kind}_excess", values=(grid.values - self.baseline(kind)[0]).astype(np.float32))

    def top(self, count: int = 10, kinds: str = "qkv") -> list[tuple[str, Head, Head, float]]:
        """The strongest pairs, by z-score against random heads.

        Args:
            count: the most pairs to return.
            kinds: the kinds to include.

        Returns:
            kind, writer, reader, score.
        """
        found: list[tuple[float, tuple[str, Head, Head, float]]] = []
        for kind in kinds:
            mean, deviation = self.baseline(kind)
            grid = self[f"{kind}_composition"]
            for place, score in grid.top(count):
                writer = (place["writer_layer"], place["writer_head"])
                reader = (place["reader_layer"], place["reader_head"])
                if not np.isnan(score):
                    found.append(((score - mean) / deviation, (kind, writer, reader, score)))
        return [entry for _, entry in sorted(found, key=lambda each: -each[0])[:count]]

    def table(self) -> Table:
        """The strongest pairs of heads."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: for each kind a heat map of readers and writers, minus the score of random heads.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def _check(self, kind: str) -> None:
        if kind not in KINDS:
            raise InvalidRequestError(f"there is no composition {kind!r}", field="kind", valid=KINDS)

    def __repr__(self) -> str:
        if self.plan is None:
            return "CompositionResult(not begun)"
        return (
            f"CompositionResult({self.plan.model_id}: {counted(len(self.plan.layers), 'layer')} x "
            f"{counted(self.plan.head_count, 'head')}"
            f"{'' if self.end else ', not complete'})"
        )
