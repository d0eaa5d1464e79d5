"""The result of a residual stream analysis: arrays with named axes, attributed logits, lenses, routes, flow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.display import show
from neuroscope.errors import InvalidRequestError, StreamingError, nearest
from neuroscope.labelled_array import LabelledArray
from neuroscope.results.findings import LensReading, LogitAttribution, SumError
from neuroscope.results.flow import InformationFlow
from neuroscope.results.result import AnalysisResult
from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary.counts import counted

if TYPE_CHECKING:
    from rich.table import Table

_PART = "RESIDUAL_PART_"
PART_NUMBERS = {name.removeprefix(_PART).lower(): number for name, number in pb.ResidualPart.items() if number}
PARTS = tuple(PART_NUMBERS)
"""Names of the parts of an analysis."""
_DIMS = {
    "norm": ("component", "position"),
    "share": ("component", "position"),
    "cosine": ("component", "position"),
    "stream_norm": ("point", "position"),
    "stream_cosine": ("point", "position"),
    "drift": ("layer", "position"),
    "head_norm": ("layer", "head"),
    "head_share": ("layer", "head"),
    "head_cosine": ("layer", "head"),
    "direct": ("component",),
    "direct_head": ("layer", "head"),
    "direct_head_bias": ("layer",),
    "routing": ("layer", "query", "key"),
    "routing_head": ("layer", "head", "query", "key"),
    "ablated_attention": ("layer",),
    "ablated_mlp": ("layer",),
}
_OF_LENS = {"tokens": ("point", "position", "rank"), "probability": ("point", "position", "rank")}
_LENSES = ("lens", "tuned")


class ResidualResult(
    AnalysisResult[pb.AnalyzeResidualStreamRequest, pb.ResidualPlan, pb.AnalyzeResidualStreamResponse, pb.ResidualEnd]
):
    """The residual stream on some prompts.

    `result["share"]` is an array over component and position; with several prompts of equal length over prompt,
    component and position. For prompts of different lengths use `result.array("share", 1)`. `names` lists the arrays.

    Args:
        request: the request of the analysis.
    """

    rpc = "AnalyzeResidualStream"
    noun = "an analysis of the residual stream"
    request_type = pb.AnalyzeResidualStreamRequest
    response_type = pb.AnalyzeResidualStreamResponse

    def __init__(self, request: pb.AnalyzeResidualStreamRequest) -> None:
        super().__init__(request)
        self.errors: dict[int, SumError] = {}
        """By prompt: the error of reconstructing the stream as a sum of contributions."""
        self.attributions: dict[int, LogitAttribution] = {}
        """By prompt: direct logit attribution."""
        self.lenses: dict[int, LensReading] = {}
        """By prompt: where the lenses see the answer."""
        self.flows: dict[int, InformationFlow] = {}
        """By prompt: information flow between components."""
        self.metrics: dict[int, float] = {}
        """By prompt: the metric without ablation."""

    def _on_partial(self, response: pb.AnalyzeResidualStreamResponse) -> None:
        self._add_finding(response.partial)

    def _on_result(self, end: pb.ResidualEnd) -> None:
        for finding in end.findings:
            self._add_finding(finding)

    def _add_finding(self, finding: pb.ResidualPartial) -> None:
        match finding.WhichOneof("finding"):
            case "sum":
                heads = finding.sum.head_error if finding.sum.HasField("head_error") else None
                self.errors[finding.sum.prompt] = SumError(finding.sum.error, heads)
            case "attribution":
                attribution = LogitAttribution.from_message(finding.attribution)
                self.attributions[finding.attribution.prompt] = attribution
            case "lens":
                self.lenses[finding.lens.prompt] = LensReading.from_message(finding.lens)
            case "flow":
                self.flows[finding.flow.prompt] = InformationFlow.from_message(finding.flow)
            case "ablated":
                self.metrics[finding.ablated.prompt] = finding.ablated.metric
            case _:
                pass

    @property
    def parts(self) -> list[str]:
        """The parts of the analysis."""
        return [part_name(part) for part in self._require_plan().parts]

    @property
    def components(self) -> list[str]:
        """Components in execution order: embed, a0, m0, ..."""
        return list(self._require_plan().components)

    @property
    def tokens(self) -> list[list[str]]:
        """The tokens of each prompt as text."""
        return [list(prompt.texts) for prompt in self._require_plan().prompts]

    def array(self, name: str, prompt: int = 0) -> LabelledArray:
        """An array of one prompt.

        Raises:
            InvalidRequestError: the result has no array of that name.
            StreamingError: the array was not received.
        """
        plan = self._require_plan()
        if name not in self.names:
            close = nearest(name, self.names)
            raise InvalidRequestError(
                f"the result has nothing of the name {name!r}; nearest: {', '.join(close)}", field="name", valid=close
            )
        if not 0 <= prompt < len(plan.prompts):
            raise InvalidRequestError(f"there are {len(plan.prompts)} prompts, and no prompt {prompt}", field="prompt")
        values = self._tensors.get((self.names.index(name), prompt))
        if values is None:
            raise StreamingError(f"{name} of prompt {prompt} has not come")
        dims = dims_of(name)
        named = {
            "component": self.components,
            "head": list(range(plan.head_count)),
            "query": list(plan.prompts[prompt].queries),
        }
        coords = {dim: named.get(dim, list(range(extent))) for dim, extent in zip(dims, values.shape, strict=True)}
        return LabelledArray(name, values, dims, coords)

    def __getitem__(self, name: str) -> LabelledArray:
        count = len(self._require_plan().prompts)
        arrays = [self.array(name, prompt) for prompt in range(count)]
        if count == 1:
            return arrays[0]
        first = arrays[0]
        if any(array.shape != first.shape or array.coords != first.coords for array in arrays):
            raise InvalidRequestError(
                f"prompts have {name} in different shapes: take them one by one, array({name!r}, prompt)", field="name"
            )
        values = np.stack([array.values for array in arrays])
        return LabelledArray(name, values, ("prompt", *first.dims), {"prompt": list(range(count)), **first.coords})

    def __iter__(self) -> Iterator[LabelledArray]:
        return (self[name] for name in self.names)

    def routes(self, threshold: float = 0.1, prompt: int = 0) -> list[tuple[int, int, int, float]]:
        """Routes as (layer, query, key, norm), strongest first.

        Args:
            threshold: the least norm, relative to the prompt's largest.
            prompt: index of the prompt.
        """
        grid = self.array("routing", prompt)
        queries, values = grid.coords["query"], np.nan_to_num(grid.values)
        least = threshold * max(float(values.max()), 1e-30)
        found = [
            (int(layer), int(queries[query]), int(key), float(values[layer, query, key]))
            for layer, query, key in np.argwhere(values >= least)
        ]
        return sorted(found, key=lambda route: -route[3])

    def rollout(self, prompt: int = 0) -> LabelledArray:
        """Attention rollout: how much of each position's last stream comes from each position's first.

        Abnar & Zuidema 2020 (arXiv:2005.00928), with norms of moved vectors instead of attention weights, and the norm
        of the stream for the residual connection. It needs the routes of all queries, and contributions.

        Raises:
            InvalidRequestError: the result does not have the routes of all queries.
        """
        routes, stream = self.array("routing", prompt), self.array("stream_norm", prompt).values
        length = stream.shape[1]
        if list(routes.coords["query"]) != list(range(length)):
            raise InvalidRequestError("a rollout needs the routes of every query", field="queries")
        rolled = np.eye(length)
        for layer, moved in enumerate(np.nan_to_num(routes.values.astype(np.float64))):
            mixed = moved + np.diag(stream[layer])
            rolled = mixed / mixed.sum(axis=1, keepdims=True) @ rolled
        positions = list(range(length))
        coords = {"query": positions, "key": positions}
        return LabelledArray("rollout", rolled.astype(np.float32), ("query", "key"), coords)

    def table(self) -> Table:
        """Contributions, direct effects on the answer and effects of ablation by component."""
        return show(self, "table")

    def lens_table(self, prompt: int = 0, position: int | None = None, lens: str = "lens") -> Table:
        """The likeliest tokens of every point at one position.

        Args:
            prompt: index of the prompt.
            position: index of the position; None for that of the answer.
            lens: lens or tuned.
        """
        return show(self, "lens_table", prompt, position, lens)

    def __repr__(self) -> str:
        if self.plan is None:
            return "ResidualResult(not begun)"
        prompts = counted(len(self.plan.prompts), "prompt")
        return (
            f"ResidualResult({self.plan.model_id}: {', '.join(self.parts)} of {prompts}, "
            f"{counted(self.plan.layer_count, 'layer')}{'' if self.end else ', not complete'})"
        )

    def plot(self, path: str | Path | None = None, *, part: str | None = None, prompt: int = 0) -> Any:
        """A matplotlib figure: heat maps of contributions, curves over layers, lens tables, routes, flow.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf or .html.
            part: part of the analysis; None for all.
            prompt: index of the prompt.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`), or the result has no such part.
        """
        return show(self, "picture", path, part=part, prompt=prompt)


def part_name(part: pb.ResidualPart.ValueType) -> str:
    """The name of a part, such as contributions."""
    return pb.ResidualPart.Name(part).removeprefix(_PART).lower()


def dims_of(name: str) -> tuple[str, ...]:
    """The axes of an array by its name."""
    if name in _DIMS:
        return _DIMS[name]
    lens, _, what = name.partition("_")
    if lens not in _LENSES:
        raise StreamingError(f"an array {name} is not known")
    return _OF_LENS.get(what, ("point", "position"))
