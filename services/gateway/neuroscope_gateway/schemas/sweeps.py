"""Sweeps: request and response."""

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
    """Sampling of the text that runs generate."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    """Maximum number of tokens of each run."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    seed: Seed = 0
    """Seed of sampling, the same for all runs."""
    stop: list[Text] = Field([], max_length=16)
    """Stop texts."""
    edited_tokens: Literal["generated", "prompt"] = "generated"
    """`generated`: cells of all positions also patch generated tokens; `prompt`: prompt positions only."""

    def to_message(self) -> pb.SweepGeneration:
        """This object as a message of the contract."""
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
    """Id of a loaded model; default: the model loaded first."""
    pairs: Annotated[list[PromptPair], Field(min_length=1, max_length=256)]
    """The prompts."""
    references: list[Prompt] = Field([], max_length=256)
    """Reference prompts for means and resampling."""
    edited_run: Literal["clean", "corrupted"] | None = None
    """The run that is patched; default: the corrupted one, if there is one."""
    grids: list[SweepGrid] = Field([], max_length=64)
    """Grids of sites."""
    paths: list[PathGrid] = Field([], max_length=64)
    """Grids of paths."""
    edges: list[EdgeGrid] = Field([], max_length=64)
    """Grids of edges."""
    cells: list[SweepCell] = Field([], max_length=10_000)
    """Single cells."""
    metric: Metric
    """How runs are scored."""
    max_patches: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Maximum number of patches; a larger sweep is rejected with its estimate; 0: the service's limit."""
    max_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Maximum estimated duration; 0: no limit."""
    batch_bytes: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Memory of one batch; 0: the service's default."""
    done_patches: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([], max_length=1_000_000)
    """Patches to skip, because their values are known."""
    method: Literal["auto", "plain", "layers", "layers_and_positions"] = "auto"
    """The implementation; `auto`: the fastest with the numbers of `plain`."""
    generation: SweepGeneration | None = None
    """Generates text in every run."""
    criterion: Text | None = None
    """A test of the generated texts: function_call, json, refusal, contains:TEXT."""
    stream: bool = False
    """Returns newline-delimited JSON: plan, values, progress, end."""

    def to_message(self) -> pb.RunSweepRequest:
        """This request as a message of the contract.

        Raises:
            MLXIntegrationError: an edit, a path or a value is invalid; `field` is its path.
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
    """Generated texts in the same layout, if the sweep generates."""
    scores: list[Any] | None = None
    """Results of the criterion on these texts."""


class SweepResponse(BaseModel):
    """The result of a sweep."""

    object: Literal["sweep"] = "sweep"
    model: str
    metric: str
    method: Literal["plain", "layers", "layers_and_positions"]
    """The implementation that ran."""
    reason: str
    """Why no faster one ran."""
    clean: list[float]
    """The metric of each clean run, not normalised."""
    corrupted: list[float | None]
    """The metric of each corrupted run."""
    clean_texts: list[str] | None = None
    """The text of each clean run, if the sweep generates."""
    corrupted_texts: list[str | None] | None = None
    """The text of each corrupted run."""
    grids: list[GridValues]
    """Grids of sites, then `paths`, `edges` and single `cells`."""
    elapsed_seconds: float
