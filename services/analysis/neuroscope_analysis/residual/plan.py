"""What an analysis of the residual stream says it will do: arrays, components, notes on the numbers."""

from __future__ import annotations

from collections.abc import Iterator

from neuroscope.v1 import residual_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope_analysis.arrays import NamedArrays, PlannedArray
from neuroscope_analysis.residual import ablation, attribution, contributions, lens, request, routing
from neuroscope_analysis.residual.components import STREAM
from neuroscope_analysis.residual.request import ResidualWork

_A = tensor_pb2.Axis
_VARIES = -1
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


def planned(work: ResidualWork) -> NamedArrays:
    """The arrays that will be sent."""
    return NamedArrays(list(_arrays(work)))


def plan(work: ResidualWork, arrays: NamedArrays) -> pb.ResidualPlan:
    """The message."""
    behind = [*(warning for tokens in (*work.prompts, *work.corrupted) for warning in tokens.warnings)]
    return pb.ResidualPlan(
        model_id=work.model.model_id,
        parts=work.parts,
        arrays=arrays.plan,
        components=work.components.names,
        layer_count=work.components.layer_count,
        head_count=_heads(work),
        prompts=[
            pb.ResidualPrompt(ids=tokens.ids, texts=tokens.tokens, position=position, queries=queries)
            for tokens, position, queries in zip(work.prompts, work.positions, work.queries, strict=True)
        ],
        warnings=list(dict.fromkeys([*work.warnings, *behind])),
        notes=[_NOTES[part] for part in work.parts],
    )


def _arrays(work: ResidualWork) -> Iterator[PlannedArray]:
    components, layers, heads = len(work.components.written), work.components.layer_count, _heads(work)

    def array(name: str, **axes: int) -> PlannedArray:
        numbers = tuple(_A.Value(f"AXIS_{axis.upper()}") for axis in axes)
        return PlannedArray(name, STREAM, numbers, tuple(axes.values()))

    if request.CONTRIBUTIONS in work.parts:
        yield from (array(name, sender=components, position=_VARIES) for name in contributions.OF_COMPONENTS)
        yield from (array(name, layer=layers + 1, position=_VARIES) for name in contributions.OF_STREAM)
        yield array(contributions.DRIFT, layer=layers, position=_VARIES)
        if work.has_heads:
            yield from (array(name, layer=layers, head=heads) for name in contributions.OF_HEADS)
    if request.ATTRIBUTION in work.parts:
        yield array(attribution.COMPONENTS, sender=components)
        if work.has_heads:
            yield array(attribution.HEADS, layer=layers, head=heads)
            yield array(attribution.BIASES, layer=layers)
    if request.LENS in work.parts:
        lenses = [lens.LOGIT_LENS, *([lens.TUNED_LENS] if work.translators is not None else [])]
        for kind in lenses:
            for name in lens.OF_RANKS:
                yield array(f"{kind}_{name}", layer=layers + 1, position=_VARIES, rank=work.top_k)
            yield from (array(f"{kind}_{name}", layer=layers + 1, position=_VARIES) for name in lens.OF_POSITIONS)
    if request.ROUTING in work.parts:
        yield array(routing.ROUTING, layer=layers, position=_VARIES, key_position=_VARIES)
        if work.request.routing.by_head:
            yield array(routing.BY_HEAD, layer=layers, head=heads, position=_VARIES, key_position=_VARIES)
    if request.ABLATION in work.parts:
        yield from (array(name, layer=layers) for name in ablation.EFFECTS.values())


def _heads(work: ResidualWork) -> int:
    return work.model.info.model.num_heads if work.has_heads else 0
