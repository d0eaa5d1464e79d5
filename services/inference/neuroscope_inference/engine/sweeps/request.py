"""From the contract's request to a sweep that has been checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError
from neuroscope.tensors import Array
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope_inference.engine.expression import Resolve
from neuroscope_inference.engine.model import LoadedModel, TokenizedPrompt
from neuroscope_inference.engine.sweeps.cells import Cells, SingleCells
from neuroscope_inference.engine.sweeps.grids import Grid
from neuroscope_inference.engine.sweeps.metrics import metric_of
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, Pair
from neuroscope_inference.engine.sweeps.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the service allows a sweep.

    Args:
        max_prompts: pairs, and references.
        max_patches: patches.
        batch_bytes: memory of the rows that run together, where the request does not say.
    """

    max_prompts: int
    max_patches: int
    batch_bytes: int


def sweep_of(request: pb.RunSweepRequest, model: LoadedModel, resolve: Resolve, allowed: Allowed) -> Sweep:
    """The sweep that a request asks for. Nothing has run when it raises.

    Raises:
        InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError: name the field.
    """
    resolve = _remembering(resolve)
    pairs, warnings = _pairs(model, request, allowed.max_prompts)
    cells: list[tuple[int, Cells]] = []
    count = 0
    for index, message in enumerate(request.grids):
        grid = Grid(model, message, f"grids[{index}]", count, pairs, resolve)
        cells.append((count, grid))
        count += grid.count
    if request.cells:
        cells.append((count, SingleCells(model, request.cells, resolve)))
        count += len(request.cells)
    if not count:
        raise InvalidRequestError("a sweep without grids and cells edits nothing", field="grids")
    limits = request.limits
    if not math.isfinite(limits.max_seconds) or limits.max_seconds < 0:
        raise InvalidRequestError(f"{limits.max_seconds} is no time", field="limits.max_seconds")
    sweep = Sweep(
        model,
        pairs,
        cells,
        metric_of(request.metric, model, pairs, resolve),
        _method(request),
        _done(request.done_patches, count * len(pairs)),
        limits.batch_bytes or allowed.batch_bytes,
        min(limits.max_patches or allowed.max_patches, allowed.max_patches),
        limits.max_seconds,
        warnings,
    )
    sweep.check()
    return sweep


def _pairs(model: LoadedModel, request: pb.RunSweepRequest, most: int) -> tuple[list[Pair], list[str]]:
    if not request.pairs:
        raise InvalidRequestError("there is no pair of prompts", field="pairs")
    for field, prompts in (("pairs", request.pairs), ("references", request.references)):
        if len(prompts) > most:
            raise InvalidRequestError(f"at most {most} {field} a sweep (the setting max_prompts)", field=field)
    read: list[TokenizedPrompt] = []

    def ids(prompt: inference_pb2.Prompt, field: str) -> Sequence[int]:
        read.append(model.tokenize(prompt, field))
        return read[-1].ids

    references = [ids(prompt, f"references[{index}]") for index, prompt in enumerate(request.references)]
    pairs: list[Pair] = []
    for index, pair in enumerate(request.pairs):
        field = f"pairs[{index}]"
        if not pair.HasField("clean"):
            raise InvalidRequestError("the clean prompt is missing", field=f"{field}.clean")
        clean = ids(pair.clean, f"{field}.clean")
        corrupted = ids(pair.corrupted, f"{field}.corrupted") if pair.HasField("corrupted") else None
        pairs.append(Pair(index, clean, corrupted, references, _edited_row(request, corrupted, field)))
    if len({pair.edited_row for pair in pairs}) > 1:
        raise InvalidRequestError(
            "some pairs have a corrupted prompt and some have not: say which run is edited", field="edited_run"
        )
    return pairs, [warning for prompt in read for warning in prompt.warnings]


def _remembering(resolve: Resolve) -> Resolve:
    """Finds tensors once: edits are compiled again as they run, on a thread that must not read from disk, and at a time
    when an upload may have expired."""
    found: dict[bytes, Array] = {}

    def remembered(reference: tensor_pb2.TensorReference, path: str) -> Array:
        if reference.WhichOneof("source") == "inline":
            return resolve(reference, path)
        key = reference.SerializeToString(deterministic=True)
        if key not in found:
            found[key] = resolve(reference, path)
        return found[key]

    return remembered


def _edited_row(request: pb.RunSweepRequest, corrupted: Sequence[int] | None, field: str) -> int:
    match request.edited_run:
        case pb.SWEPT_RUN_UNSPECIFIED:
            return CLEAN if corrupted is None else CORRUPTED
        case pb.SWEPT_RUN_CLEAN:
            return CLEAN
        case pb.SWEPT_RUN_CORRUPTED:
            if corrupted is None:
                raise InvalidRequestError(
                    "there is no corrupted prompt whose run could be edited", field=f"{field}.corrupted"
                )
            return CORRUPTED
        case unknown:
            raise InvalidRequestError(f"the contract has no run {unknown}", field="edited_run")


def _method(request: pb.RunSweepRequest) -> pb.SweepMethod.ValueType:
    if request.method not in pb.SweepMethod.values():
        raise InvalidRequestError(f"the contract has no method {request.method}", field="method")
    return request.method


def _done(patches: Sequence[int], count: int) -> frozenset[int]:
    for index, patch in enumerate(patches):
        if patch >= count:
            raise InvalidRequestError(
                f"patch {patch} is out of range: the sweep has {count}", field=f"done_patches[{index}]"
            )
    return frozenset(patches)
