"""From the contract's request to an attribution that has been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine.attributions.attribution import Attribution
from neuroscope_inference.engine.attributions.edges import parse_edges
from neuroscope_inference.engine.attributions.inputs import parse_inputs
from neuroscope_inference.engine.attributions.method import AttributionMethod
from neuroscope_inference.engine.attributions.nodes import parse_nodes
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.metrics import Metric, parse_metric
from neuroscope_inference.engine.sweeps.pair import CLEAN, Pair
from neuroscope_inference.engine.sweeps.pairs import parse_pairs

MAX_STEPS = 1024


@dataclass(frozen=True, slots=True)
class AttributionLimits:
    """What the service allows an attribution.

    Args:
        max_prompts: pairs.
        batch_bytes: memory of the rows that run together, where the request does not say.
    """

    max_prompts: int
    batch_bytes: int


def parse_attribution(
    request: pb.AttributeRequest, model: LoadedModel, resolve: ResolveTensor, allowed: AttributionLimits
) -> Attribution:
    """The attribution that a request asks for. Nothing has run when it raises.

    Raises:
        InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError: name the field.
    """
    method = request.WhichOneof("method")
    if method is None:
        raise InvalidRequestError("what is scored is missing: nodes, edges or inputs", field="nodes")
    run = request.edited_run
    if run == pb.SWEPT_RUN_UNSPECIFIED and method != "inputs":
        run = pb.SWEPT_RUN_CLEAN
    read = parse_pairs(model, request.pairs, (), run, allowed.max_prompts)
    _check_pairs(request, method, read.pairs)
    metric = parse_metric(request.metric, model, read.pairs, resolve)
    steps: int = getattr(request, method).steps
    if steps > MAX_STEPS:
        raise InvalidRequestError(f"at most {MAX_STEPS} steps, not {steps}", field=f"{method}.steps")
    batch_bytes = request.batch_bytes or allowed.batch_bytes
    kind: Callable[[], AttributionMethod]
    match method:
        case "nodes":
            kind = _constant(parse_nodes(request.nodes, model, read.pairs, each_pair=request.each_pair))
        case "inputs":
            if not request.each_pair and len({pair.length for pair in read.pairs}) > 1:
                raise InvalidRequestError(
                    "the prompts differ in length, so their positions have no mean over pairs: ask for scores of each "
                    "pair",
                    field="each_pair",
                )
            kind = _constant(parse_inputs(request.inputs, model))
        case "edges":
            kind = partial(parse_edges, model, request.edges, batch_bytes)
    _check_metric(metric, _only_clean_gradient(request, method, read.pairs))
    return Attribution(
        model, read.pairs, metric, kind, request.each_pair, batch_bytes, _batch_positions(), read.warnings
    )


def _constant(kind: AttributionMethod) -> Callable[[], AttributionMethod]:
    return lambda: kind


def _batch_positions() -> int:
    """Positions of the rows of one pass: as many as keep the device busy, and no longer than others may wait."""
    return 256 if mx.default_device() == mx.cpu else 4096


def _check_pairs(request: pb.AttributeRequest, method: str, pairs: Sequence[Pair]) -> None:
    without = [pair.index for pair in pairs if pair.corrupted is None]
    is_alone = method == "nodes" and request.nodes.gradient_times_activation
    if without and method != "inputs" and not is_alone:
        raise InvalidRequestError(
            f"pair {without[0]} has no corrupted prompt, whose activations are compared with the clean ones",
            field=f"pairs[{without[0]}].corrupted",
        )
    if without and len(without) < len(pairs):
        raise InvalidRequestError(
            f"pair {without[0]} has no corrupted prompt and others have one", field=f"pairs[{without[0]}].corrupted"
        )
    if without and method == "inputs" and request.edited_run:
        raise InvalidRequestError(
            "without a corrupted prompt the line begins at zero embeddings and ends at the clean ones: leave out which "
            "run is edited",
            field="edited_run",
        )
    for pair in pairs:
        if pair.corruptions:
            raise InvalidRequestError(
                "an attribution compares runs of prompts: edits and noise make corrupted runs of sweeps alone",
                field=pair.corruptions[0].path,
            )
        if is_alone or pair.corrupted is None or len(pair.clean) == len(pair.corrupted):
            continue
        raise InvalidRequestError(
            f"the prompts of pair {pair.index} have {len(pair.clean)} and {len(pair.corrupted)} tokens, so their "
            "positions do not pair; make them equally long",
            field=f"pairs[{pair.index}].corrupted",
        )


def _only_clean_gradient(request: pb.AttributeRequest, method: str, pairs: Sequence[Pair]) -> bool:
    """Whether the only gradient is that of the clean run."""
    steps = 1 if method == "nodes" and not request.nodes.steps else getattr(request, method).steps
    return method != "inputs" and steps == 1 and pairs[0].edited_row == CLEAN


def _check_metric(metric: Metric, begins_at_clean: bool) -> None:
    if "rank" in metric.kinds:
        raise InvalidRequestError("a rank is a count and has no gradient: take a log-probability", field="metric.rank")
    if metric.kind == "kl_divergence" and begins_at_clean:
        raise InvalidRequestError(
            "the divergence from the clean run is least in the clean run, where its gradient is zero: take several "
            "steps, or gradients in the corrupted run",
            field="metric.kl_divergence",
        )
