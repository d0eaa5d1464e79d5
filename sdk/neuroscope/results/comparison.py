"""The result of comparing attention on two prompts: divergence of each head's patterns, and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.display import show
from neuroscope.labelled_array import LabelledArray
from neuroscope.results.result import AnalysisResult
from neuroscope.v1 import attention_comparison_pb2 as pb
from neuroscope.vocabulary.counts import counted

if TYPE_CHECKING:
    from rich.table import Table

DIVERGENCES = ("jensen_shannon", "total_variation")
ALIGNMENTS = {
    "auto": pb.ALIGNMENT_UNSPECIFIED,
    "positions": pb.ALIGNMENT_POSITIONS,
    "tokens": pb.ALIGNMENT_TOKENS,
}


class AttentionComparison(
    AnalysisResult[
        pb.CompareAttentionRequest,
        pb.AttentionComparisonPlan,
        pb.CompareAttentionResponse,
        pb.AttentionComparisonResult,
    ]
):
    """Attention heads on two prompts.

    `result["jensen_shannon"]` and `result["total_variation"]` are arrays over layer and head; `result["entropy"]` and
    other statistics are over prompt (0, 1), layer and head.

    Args:
        request: the request of the comparison.
    """

    rpc = "CompareAttention"
    noun = "a comparison of attention"
    request_type = pb.CompareAttentionRequest
    response_type = pb.CompareAttentionResponse

    def _on_partial(self, response: pb.CompareAttentionResponse) -> None:
        """The result consists of arrays only."""

    def _on_result(self, end: pb.AttentionComparisonResult) -> None:
        """The result consists of arrays only."""

    @property
    def alignment(self) -> list[tuple[int, int]]:
        """Pairs of compared positions: of the first prompt and of the second."""
        plan = self._require_plan()
        return list(zip(plan.first_positions, plan.second_positions, strict=True))

    def __getitem__(self, name: str) -> LabelledArray:
        rows, values = self._stacked(name)
        plan = self._require_plan()
        coords: dict[str, Any] = {"layer": list(plan.layers), "head": list(range(plan.head_count))}
        if name in DIVERGENCES:
            return LabelledArray(name, values[0], ("layer", "head"), coords)
        return LabelledArray(name, values, ("prompt", "layer", "head"), {"prompt": rows, **coords})

    def __iter__(self) -> Iterator[LabelledArray]:
        return (self[name] for name in self.names)

    def difference(self, statistic: str) -> LabelledArray:
        """A statistic on the second prompt minus that on the first (layer, head)."""
        both = self[statistic]
        first, second = both.sel(prompt=0), both.sel(prompt=1)
        return LabelledArray(f"{statistic} difference", second.values - first.values, first.dims, first.coords)

    def most_changed(self, count: int = 10, by: str = "jensen_shannon") -> list[tuple[tuple[int, int], float]]:
        """Layer and head of the heads whose patterns differ most, with the divergence.

        Args:
            count: the most heads to return.
            by: jensen_shannon (nats) or total_variation.
        """
        return [((place["layer"], place["head"]), value) for place, value in self[by].top(count)]

    def table(self) -> Table:
        """The heads whose patterns differ most, and their statistics on both prompts."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: heat maps of the divergences and of the differences of statistics.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def __repr__(self) -> str:
        if self.plan is None:
            return "AttentionComparison(not begun)"
        return (
            f"AttentionComparison({self.plan.model_id}: {counted(len(self.plan.layers), 'layer')} x "
            f"{counted(self.plan.head_count, 'head')}, "
            f"{len(self.plan.first_positions)} aligned positions{'' if self.end else ', not complete'})"
        )
