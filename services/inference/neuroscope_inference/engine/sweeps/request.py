"""From the contract's request to a sweep that has been checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine.edges.grid import EdgeGrid
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.paths.grid import PathGrid
from neuroscope_inference.engine.sweeps.cells import Cells, SingleCells
from neuroscope_inference.engine.sweeps.corruption import Corruptions
from neuroscope_inference.engine.sweeps.generation import parse_generation
from neuroscope_inference.engine.sweeps.grids import Grid
from neuroscope_inference.engine.sweeps.metrics import parse_metric
from neuroscope_inference.engine.sweeps.pairs import parse_pairs
from neuroscope_inference.engine.sweeps.sweep import Sweep


@dataclass(frozen=True, slots=True)
class SweepLimits:
    """What the service allows a sweep.

    Args:
        max_prompts: pairs, and references.
        max_patches: patches.
        batch_bytes: memory of the rows that run together, where the request does not say.
    """

    max_prompts: int
    max_patches: int
    batch_bytes: int


def parse_sweep(request: pb.RunSweepRequest, model: LoadedModel, resolve: ResolveTensor, allowed: SweepLimits) -> Sweep:
    """The sweep that a request asks for. Nothing has run when it raises.

    Raises:
        InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError: name the field.
    """
    resolve = _memoised(resolve)
    read = parse_pairs(model, request.pairs, request.references, request.edited_run, allowed.max_prompts)
    cells: list[tuple[int, Cells]] = []
    count = 0
    for index, message in enumerate(request.grids):
        grid = Grid(model, message, f"grids[{index}]", count, read.pairs, resolve)
        cells.append((count, grid))
        count += grid.count
    for index, entry in enumerate(request.paths):
        paths = PathGrid(model, entry, f"paths[{index}]", count, read.pairs, resolve)
        cells.append((count, paths))
        count += paths.count
    for index, sets in enumerate(request.edges):
        if request.HasField("generation"):
            raise InvalidRequestError(
                "runs whose edges are changed end with their prompts: leave out the generation", field="generation"
            )
        edges = EdgeGrid(model, sets, f"edges[{index}]", count, read.pairs, resolve)
        cells.append((count, edges))
        count += edges.count
    if request.cells:
        cells.append((count, SingleCells(model, request.cells, resolve)))
        count += len(request.cells)
    if not count:
        raise InvalidRequestError("a sweep without grids, paths, edges and cells edits nothing", field="grids")
    limits = request.limits
    if not math.isfinite(limits.max_seconds) or limits.max_seconds < 0:
        raise InvalidRequestError(f"{limits.max_seconds} is no time", field="limits.max_seconds")
    sweep = Sweep(
        model,
        read.pairs,
        cells,
        parse_metric(request.metric, model, read.pairs, resolve),
        _parse_method(request),
        _parse_done(request.done_patches, count * len(read.pairs)),
        limits.batch_bytes or allowed.batch_bytes,
        min(limits.max_patches or allowed.max_patches, allowed.max_patches),
        limits.max_seconds,
        Corruptions(model, resolve),
        read.warnings,
        parse_generation(request.generation, model) if request.HasField("generation") else None,
    )
    sweep.check()
    return sweep


def _memoised(resolve: ResolveTensor) -> ResolveTensor:
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


def _parse_method(request: pb.RunSweepRequest) -> pb.SweepMethod.ValueType:
    if request.method not in pb.SweepMethod.values():
        raise InvalidRequestError(f"the contract has no method {request.method}", field="method")
    return request.method


def _parse_done(patches: Sequence[int], count: int) -> frozenset[int]:
    for index, patch in enumerate(patches):
        if patch >= count:
            raise InvalidRequestError(
                f"patch {patch} is out of range: the sweep has {count}", field=f"done_patches[{index}]"
            )
    return frozenset(patches)
