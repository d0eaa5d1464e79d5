"""The result of an attention analysis: statistics and role scores of all heads, and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.display import show
from neuroscope.errors import InvalidRequestError
from neuroscope.labelled_array import LabelledArray
from neuroscope.results.labels import HeadLabel, best_labels, role_name
from neuroscope.results.result import AnalysisResult
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.vocabulary.counts import counted

if TYPE_CHECKING:
    from rich.table import Table


class AttentionResult(
    AnalysisResult[pb.AnalyzeAttentionRequest, pb.AttentionPlan, pb.AnalyzeAttentionResponse, pb.AttentionResult]
):
    """Statistics, role scores and labels of attention heads.

    `result["entropy"]` is an array over layer and head; with several prompts over prompt, layer and head. Role scores
    are over layer and head: `result["induction_score"]` on random sequences, `result["name_mover_score"]` on named
    pairs. `result["direct_effect"]` is the heads' direct effect on the logits of named pairs. `names` lists the arrays:
    statistics of the prompts, then role scores.

    Args:
        request: the request of the analysis.
    """

    rpc = "AnalyzeAttention"
    noun = "an analysis of attention"
    request_type = pb.AnalyzeAttentionRequest
    response_type = pb.AnalyzeAttentionResponse

    def __init__(self, request: pb.AnalyzeAttentionRequest) -> None:
        super().__init__(request)
        self.labels: list[HeadLabel] = []
        """Labels by role, highest score first, including unconfirmed ones. Before its test a label is `not tested`."""

        self._messages: dict[tuple[int, int, int], pb.HeadLabel] = {}  # by role, layer and head

    def _on_partial(self, response: pb.AnalyzeAttentionResponse) -> None:
        match response.partial.WhichOneof("finding"):
            case "scores":
                self._take(response.partial.scores.labels)
            case "label":
                self._take([response.partial.label])
            case _:
                pass

    def _on_result(self, end: pb.AttentionResult) -> None:
        self._messages.clear()
        self._take(end.labels)

    def _partial_end(self) -> pb.AttentionResult:
        return pb.AttentionResult(labels=self._messages.values())

    def _take(self, labels: Iterable[pb.HeadLabel]) -> None:
        """A tested label takes the place of the one by score."""
        self._messages |= {(label.role, label.layer, label.head): label for label in labels}
        self.labels = [HeadLabel.from_message(label) for label in self._messages.values()]

    @property
    def roles(self) -> list[str]:
        """The roles that were scored."""
        return [role_name(role.role) for role in self._require_plan().roles]

    def __getitem__(self, name: str) -> LabelledArray:
        rows, values = self._stacked(name)
        plan = self._require_plan()
        coords: dict[str, Any] = {"layer": list(plan.layers), "head": list(range(plan.head_count))}
        if len(plan.prompts) > 1 and name not in self._of_roles():
            return LabelledArray(name, values, ("prompt", "layer", "head"), {"prompt": rows, **coords})
        return LabelledArray(name, values[0], ("layer", "head"), coords)

    def _of_roles(self) -> set[str]:
        """Names of the arrays without a prompt axis."""
        return {f"{role}_score" for role in self.roles} | {"direct_effect"}

    def __iter__(self) -> Iterator[LabelledArray]:
        return (self[name] for name in self.names)

    def heads(self, role: str, *, confirmed: bool = True) -> list[tuple[int, int]]:
        """Layer and head of the heads with a role, highest score first.

        Args:
            role: name of the role.
            confirmed: only heads whose role a causal test confirms.

        Raises:
            InvalidRequestError: the role was not scored.
        """
        if role not in self.roles:
            raise InvalidRequestError(f"{role!r} was not scored", field="role", valid=self.roles)
        return [
            (label.layer, label.head)
            for label in self.labels
            if label.role == role and (label.is_confirmed or not confirmed)
        ]

    @property
    def best_labels(self) -> list[HeadLabel]:
        """The label that describes each labelled head, by layer and head: the most specific confirmed one, else the
        most specific one."""
        return best_labels(self.labels)

    def table(self) -> Table:
        """A row for each labelled head with the role that describes it; if no roles were scored, the statistics."""
        return show(self, "table")

    def label_table(self) -> Table:
        """A row for every label with its evidence."""
        return show(self, "label_table")

    def summary_table(self) -> Table:
        """A row for each role: how many heads have it, how many are confirmed, and the ten with the largest score."""
        return show(self, "summary_table")

    def __repr__(self) -> str:
        if self.plan is None:
            return "AttentionResult(not begun)"
        confirmed = sum(label.is_confirmed for label in self.labels)
        return (
            f"AttentionResult({self.plan.model_id}: {counted(len(self.plan.layers), 'layer')} x "
            f"{counted(self.plan.head_count, 'head')}, {counted(len(self.plan.prompts), 'prompt')}, "
            f"{counted(len(self.labels), 'label')}, {confirmed} confirmed"
            f"{'' if self.end else ', not complete'})"
        )

    def plot(self, path: str | Path | None = None, *, statistics: str | Iterable[str] | None = None) -> Any:
        """A matplotlib figure of the width of a page: layers and heads, the role of each head by colour, confirmed
        ones filled. With statistics, a heat map of each instead.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf or .html.
            statistics: names of arrays, such as `entropy` or `induction_score`, or `all`. None: the roles; without
                roles the entropy.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`), or there is no such array.
        """
        return show(self, "picture", path, statistics=statistics)
