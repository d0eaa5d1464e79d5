"""The plan of an analysis of the residual stream: arrays, components, notes."""

from __future__ import annotations

from collections.abc import Iterator

from neuroscope.v1 import residual_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope_analysis.residual import ablation, attribution, contributions, lens, request, routing
from neuroscope_analysis.residual.components import RESID_POST
from neuroscope_analysis.residual.request import ResidualJob
from neuroscope_analysis.result_arrays import ArraySpec, ResultArrays

_A = tensor_pb2.Axis
_VARIABLE = -1
_NOTES = {
    request.CONTRIBUTIONS: (
        "shares are dot products with the last stream over its squared norm: those of all components sum to 1"
    ),
    request.ATTRIBUTION: (
        "logits are attributed with the final norm frozen at what it divides by in the run (Elhage et al. 2021); the "
        "sum is the logit before the softcap, if there is one"
    ),
    request.LENS: "kl is KL(model || lens), in nats; the tuned lens is another map into the same end",
    request.ROUTING: (
        "routes are norms of what attention moves, |sum over heads of alpha f(x)| (Kobayashi et al. 2020, "
        "arXiv:2004.10102)"
    ),
    request.ABLATION: (
        "an effect is the metric of the run less that with the mean over the references in the place of what attention "
        "or MLP writes, at every position"
    ),
    request.FLOW: (
        "effects of edges are those of direct paths, as shares of the difference between the corrupted and the clean "
        "run (Wang et al. 2022, arXiv:2211.00593); readers of keys and values are key/value heads"
    ),
}


def result_arrays(job: ResidualJob) -> ResultArrays:
    """The arrays of the result."""
    return ResultArrays(list(_arrays(job)))


def plan_message(job: ResidualJob, arrays: ResultArrays) -> pb.ResidualPlan:
    """The plan as a message."""
    behind = [*(warning for tokens in (*job.prompts, *job.corrupted) for warning in tokens.warnings)]
    return pb.ResidualPlan(
        model_id=job.model.model_id,
        parts=job.parts,
        arrays=arrays.plan,
        components=job.components.names,
        layer_count=job.components.layer_count,
        head_count=_heads(job),
        prompts=[
            pb.ResidualPrompt(ids=tokens.ids, texts=tokens.tokens, position=position, queries=queries)
            for tokens, position, queries in zip(job.prompts, job.positions, job.queries, strict=True)
        ],
        warnings=list(dict.fromkeys([*job.warnings, *behind])),
        notes=[_NOTES[part] for part in job.parts],
    )


def _arrays(job: ResidualJob) -> Iterator[ArraySpec]:
    components, layers, heads = len(job.components.written), job.components.layer_count, _heads(job)

    def array(name: str, **axes: int) -> ArraySpec:
        numbers = tuple(_A.Value(f"AXIS_{axis.upper()}") for axis in axes)
        return ArraySpec(name, RESID_POST, numbers, tuple(axes.values()))

    if request.CONTRIBUTIONS in job.parts:
        yield from (array(name, sender=components, position=_VARIABLE) for name in contributions.COMPONENT_ARRAYS)
        yield from (array(name, layer=layers + 1, position=_VARIABLE) for name in contributions.STREAM_ARRAYS)
        yield array(contributions.DRIFT, layer=layers, position=_VARIABLE)
        if job.has_heads:
            yield from (array(name, layer=layers, head=heads) for name in contributions.HEAD_ARRAYS)
    if request.ATTRIBUTION in job.parts:
        yield array(attribution.COMPONENTS, sender=components)
        if job.has_heads:
            yield array(attribution.HEADS, layer=layers, head=heads)
            yield array(attribution.BIASES, layer=layers)
    if request.LENS in job.parts:
        lenses = [lens.LOGIT_LENS, *([lens.TUNED_LENS] if job.translators is not None else [])]
        for kind in lenses:
            for name in lens.RANK_ARRAYS:
                yield array(f"{kind}_{name}", layer=layers + 1, position=_VARIABLE, rank=job.top_k)
            yield from (array(f"{kind}_{name}", layer=layers + 1, position=_VARIABLE) for name in lens.POSITION_ARRAYS)
    if request.ROUTING in job.parts:
        yield array(routing.ROUTING, layer=layers, position=_VARIABLE, key_position=_VARIABLE)
        if job.request.routing.by_head:
            yield array(routing.ROUTING_BY_HEAD, layer=layers, head=heads, position=_VARIABLE, key_position=_VARIABLE)
    if request.ABLATION in job.parts:
        yield from (array(name, layer=layers) for name in ablation.EFFECTS.values())


def _heads(job: ResidualJob) -> int:
    return job.model.info.model.num_heads if job.has_heads else 0
