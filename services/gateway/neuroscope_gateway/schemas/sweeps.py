"""Sweeps as JSON: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from neuroscope.experiments.patching import EDITED, METHODS
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.schemas.arrays import NamedArray
from neuroscope_gateway.schemas.metrics import Metric
from neuroscope_gateway.schemas.prompt_pairs import PromptPair
from neuroscope_gateway.schemas.prompts import Prompt, Seed, prompt_message
from neuroscope_gateway.schemas.sweep_grids import EdgeGrid, PathGrid, SweepCell, SweepGrid


class SweepGeneration(StrictModel):
    """What runs go on with."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    """At most so many; an end-of-sequence token ends a run before."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    seed: Seed = 0
    """The same draws for all runs."""
    stop: list[Text] = Field([], max_length=16)
    """Texts that end a run."""
    edited_tokens: Literal["generated", "prompt"] = "generated"
    """generated: cells of all positions edit each generated token, too; prompt: the prompt's positions alone."""

    def to_message(self) -> pb.SweepGeneration:
        """As the contract carries it."""
        sampling = inference_pb2.Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=self.stop,
        )
        return pb.SweepGeneration(sampling=sampling, edited_tokens=EDITED[self.edited_tokens])


class SweepRequest(StrictModel):
    """A sweep."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    pairs: Annotated[list[PromptPair], Field(min_length=1, max_length=256)]
    """The prompts."""
    references: list[Prompt] = Field([], max_length=256)
    """Prompts that stand for what is usual."""
    edited_run: Literal["clean", "corrupted"] | None = None
    """Absent: the corrupted one, if there is one."""
    grids: list[SweepGrid] = Field([], max_length=64)
    """What is swept."""
    paths: list[PathGrid] = Field([], max_length=64)
    """Paths that are swept."""
    edges: list[EdgeGrid] = Field([], max_length=64)
    """Sets of edges that are swept."""
    cells: list[SweepCell] = Field([], max_length=10_000)
    """Further cells, one by one."""
    metric: Metric
    """How runs are scored."""
    max_patches: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """A larger sweep is refused with the estimate; 0: the service's limit."""
    max_seconds: Annotated[float, Field(ge=0)] = 0.0
    """One that is estimated to take longer is refused; 0: no limit."""
    batch_bytes: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Memory of the rows that run together; 0: the service's own."""
    done_patches: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([], max_length=1_000_000)
    """Patches that are not run, since their values are known."""
    method: Literal["auto", "plain", "layers", "layers_and_positions"] = "auto"
    """How it is run; auto: the fastest way that gives the plain way's numbers."""
    generation: SweepGeneration | None = None
    """Every run goes on with text."""
    criterion: Text | None = None
    """Judges these texts: function_call, json, refusal, contains:TEXT."""
    stream: bool = False
    """Answers with lines of JSON: the plan, values and progress as they come, the end."""

    def to_message(self) -> pb.RunSweepRequest:
        """As the contract carries it.

        Raises:
            MLXIntegrationError: an edit, a path or a value cannot be meant; `field` names it.
        """
        runs = {"clean": pb.SWEPT_RUN_CLEAN, "corrupted": pb.SWEPT_RUN_CORRUPTED, None: pb.SWEPT_RUN_UNSPECIFIED}
        return pb.RunSweepRequest(
            model_id=self.model or "",
            pairs=[pair.to_message(f"pairs[{index}]") for index, pair in enumerate(self.pairs)],
            references=map(prompt_message, self.references),
            edited_run=runs[self.edited_run],
            grids=[grid.to_message(f"grids[{index}]") for index, grid in enumerate(self.grids)],
            paths=[grid.to_message(f"paths[{index}]") for index, grid in enumerate(self.paths)],
            edges=[grid.to_message(f"edges[{index}]") for index, grid in enumerate(self.edges)],
            cells=[cell.to_message(f"cells[{index}]") for index, cell in enumerate(self.cells)],
            metric=self.metric.to_message(),
            limits=pb.SweepLimits(
                max_patches=self.max_patches, max_seconds=self.max_seconds, batch_bytes=self.batch_bytes
            ),
            done_patches=self.done_patches,
            method=METHODS[self.method],
            generation=None if self.generation is None else self.generation.to_message(),
        )


class GridValues(NamedArray):
    """The values of a grid; the name is the component, with #2 for a second grid of it."""

    texts: list[Any] | None = None
    """What runs went on with, in the same way, where the sweep generated."""
    scores: list[Any] | None = None
    """How these texts meet the criterion."""


class SweepResponse(BaseModel):
    """What a sweep found."""

    object: Literal["sweep"] = "sweep"
    model: str
    metric: str
    method: Literal["plain", "layers", "layers_and_positions"]
    """How patches were run."""
    reason: str
    """Why not in a faster way."""
    clean: list[float]
    """The metric of each pair's clean run, not normalised."""
    corrupted: list[float | None]
    """That of the corrupted run."""
    clean_texts: list[str] | None = None
    """What each pair's clean run went on with, where the sweep generated."""
    corrupted_texts: list[str | None] | None = None
    """What the corrupted run went on with."""
    grids: list[GridValues]
    """Grids, paths (`paths`), sets of edges (`edges`) and single cells (`cells`)."""
    elapsed_seconds: float
