"""Validation of requests for analyses of the residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neuroscope.errors import InvalidRequestError, MLXIntegrationError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2
from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual import head_weights, lm_head, routing
from neuroscope_analysis.residual.components import Components
from neuroscope_analysis.residual.flow import FlowLimits
from neuroscope_analysis.residual.job import (
    ABLATION,
    ATTRIBUTION,
    CONTRIBUTIONS,
    FLOW,
    LENS,
    ROUTING,
    Part,
    ResidualJob,
)
from neuroscope_analysis.residual.translators import Translators
from neuroscope_analysis.settings import AnalysisSettings

_DEFAULT_PARTS = (CONTRIBUTIONS, ATTRIBUTION, LENS)
_OF_HEADS = {ROUTING, FLOW}
_TOP_K = 5
_ROUTES_BYTES = 64 * 2**20
"""Maximum bytes of the routing of one prompt."""


async def validate(
    request: pb.AnalyzeResidualStreamRequest, model: RemoteModel, settings: AnalysisSettings
) -> ResidualJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError, ContextLengthError: `field` is the offending field.
    """
    parts = _parts(request)
    if not request.prompts:
        raise InvalidRequestError("there are no prompts", field="prompts")
    if len(request.prompts) > settings.max_prompts:
        raise InvalidRequestError(
            f"at most {settings.max_prompts} prompts in a request (setting max_prompts)", field="prompts"
        )
    limits = FlowLimits.from_request(request.flow)
    vocabulary = model.info.model.vocab_size
    if request.lens.top_k > vocabulary:
        raise InvalidRequestError(f"the vocabulary has {vocabulary} tokens", field="lens.top_k")
    components = await Components.from_model(model)
    prompts = await model.tokenize_prompts(request.prompts)
    positions = [_position(request, index, len(tokens)) for index, tokens in enumerate(prompts)]
    answers = await _tokens(request.answers, len(prompts), "answers", model)
    others = await _tokens(request.others, len(prompts), "others", model)
    for index, (answer, other) in enumerate(zip(answers, others, strict=True)):
        if other is not None and answer is None:
            raise InvalidRequestError("others need answers", field="answers")
        if answer is not None and answer == other:
            at = min(index, len(request.others) - 1)
            raise InvalidRequestError("answer and other token are the same", field=f"others[{at}]")
    warnings: list[str] = []
    has_heads = await _has_heads(request, parts, model, settings, warnings)
    if ATTRIBUTION in parts and (why := await lm_head.why_unavailable(model, settings.weights_budget_bytes)):
        if request.parts:
            raise UnavailableSiteError(f"logits cannot be attributed: {why}", field=_field_of(request, ATTRIBUTION))
        parts.remove(ATTRIBUTION)
        warnings.append(f"attribution is skipped: {why}")
    if request.ablation.references:
        await model.tokenize_prompts(request.ablation.references, "ablation.references")
    neurons, neuron_layers = await _neurons(request, parts, model)
    return ResidualJob(
        model=model,
        request=request,
        parts=parts,
        prompts=prompts,
        components=components,
        positions=positions,
        answers=answers,
        others=others,
        top_k=request.lens.top_k or min(_TOP_K, vocabulary),
        neurons=neurons,
        neuron_layers=neuron_layers,
        queries=_queries(request, parts, model, prompts, positions, warnings),
        corrupted=await _corrupted(request, parts, model, prompts),
        limits=limits,
        translators=await _translators(request, parts, model),
        has_heads=has_heads,
        warnings=warnings,
    )


def _parts(request: pb.AnalyzeResidualStreamRequest) -> list[Part]:
    valid = [name.removeprefix("RESIDUAL_PART_").lower() for name, number in pb.ResidualPart.items() if number]
    known = {number for number in pb.ResidualPart.values() if number}
    for index, part in enumerate(request.parts):
        if part not in known:
            raise InvalidRequestError(
                f"unknown part {part}; parts: {', '.join(valid)}", field=f"parts[{index}]", valid=valid
            )
    parts = sorted(set(request.parts or _DEFAULT_PARTS))
    for name, part in (("neurons", ATTRIBUTION), ("routing", ROUTING), ("ablation", ABLATION), ("flow", FLOW)):
        if getattr(request, name).ListFields() and part not in parts:
            raise InvalidRequestError(f"{name} is set, but parts lack {valid[part - 1]}", field=name)
    if request.lens.HasField("tuned") and LENS not in parts:
        raise InvalidRequestError("a tuned lens is set, but parts lack lens", field="lens.tuned")
    return parts


def _field_of(request: pb.AnalyzeResidualStreamRequest, part: Part) -> str:
    return f"parts[{list(request.parts).index(part)}]" if part in request.parts else "parts"


def _position(request: pb.AnalyzeResidualStreamRequest, prompt: int, length: int) -> int:
    given = request.position if request.HasField("position") else -1
    position = given + length if given < 0 else given
    if not 0 <= position < length:
        raise InvalidRequestError(
            f"prompts[{prompt}] has {length} tokens: there is no position {given}", field="position"
        )
    return position


async def _tokens(
    choices: Sequence[experiment_pb2.TokenChoice], count: int, name: str, model: RemoteModel
) -> list[int | None]:
    """A token for each prompt; None if the request has none."""
    if not choices:
        return [None] * count
    if len(choices) not in (1, count):
        raise InvalidRequestError(
            f"{name} must have one entry or {count}, one for each prompt, not {len(choices)}", field=name
        )
    found = [await _token(choice, f"{name}[{index}]", model) for index, choice in enumerate(choices)]
    return [*found] if len(found) == count else [*(found * count)]


async def _token(choice: experiment_pb2.TokenChoice, path: str, model: RemoteModel) -> int:
    kind = choice.WhichOneof("token")
    return await model.token_id(choice, path if kind is None else f"{path}.{kind}")


async def _has_heads(
    request: pb.AnalyzeResidualStreamRequest,
    parts: list[Part],
    model: RemoteModel,
    settings: AnalysisSettings,
    warnings: list[str],
) -> bool:
    """Whether heads can be separated; parts that need it are rejected otherwise."""
    why = await head_weights.why_heads_unavailable(model, settings.weights_budget_bytes)
    for part, needed in ((ROUTING, (routing.VALUE, routing.PATTERN)), (FLOW, ())):
        if part not in parts:
            continue
        lacking = [
            name for name in needed if not set(model.layers(head_weights.HEAD_OUTPUT)) <= set(model.layers(name))
        ]
        if why or lacking:
            raise UnavailableSiteError(
                f"{model.model_id}: {why or f'{lacking[0]} cannot be read in every layer of heads'}",
                field=_field_of(request, part),
            )
    if why and set(parts) & {CONTRIBUTIONS, ATTRIBUTION}:
        warnings.append(f"heads are skipped: {why}")
    return not why


async def _neurons(
    request: pb.AnalyzeResidualStreamRequest, parts: Sequence[Part], model: RemoteModel
) -> tuple[list[tuple[int, int]], list[int]]:
    """Named neurons, and the layers whose neurons are attributed."""
    if ATTRIBUTION not in parts or not request.neurons.ListFields():
        return [], []
    there = model.layers(head_weights.NEURONS)
    if not there:
        reasons = {p.reason for p in model.info.points if p.site.component == head_weights.NEURONS and p.reason}
        raise UnavailableSiteError(
            f"{model.model_id} has no readable neurons: {'; '.join(sorted(reasons))}", field="neurons"
        )
    plan = (await model.weights("W_out", layers=there, content="plan")).plan
    widths = {spec.site.layer: int(spec.shape[0]) for spec in plan.tensors.tensors}
    count, found = model.info.model.num_layers, list[tuple[int, int]]()
    for index, named in enumerate(request.neurons.neurons):
        path = f"neurons.neurons[{index}]"
        layer = named.layer + count if named.layer < 0 else named.layer
        if layer not in widths:
            raise InvalidRequestError(
                f"there are no neurons in layer {named.layer}; layers: {', '.join(map(str, there))}",
                field=f"{path}.layer",
            )
        neuron = named.neuron + widths[layer] if named.neuron < 0 else named.neuron
        if not 0 <= neuron < widths[layer]:
            raise InvalidRequestError(
                f"layer {layer} has {widths[layer]} neurons: there is no neuron {named.neuron}", field=f"{path}.neuron"
            )
        found.append((layer, neuron))
    layers = there if request.neurons.strongest else sorted({layer for layer, _ in found})
    return found, layers


def _queries(
    request: pb.AnalyzeResidualStreamRequest,
    parts: Sequence[Part],
    model: RemoteModel,
    prompts: Sequence[Tokens],
    positions: Sequence[int],
    warnings: list[str],
) -> list[list[int]]:
    if ROUTING not in parts:
        return [[] for _ in prompts]
    of_pair = 4 * model.info.model.num_layers
    if request.routing.by_head:
        of_pair *= 1 + model.info.model.num_heads
    found: list[list[int]] = []
    for prompt, tokens in enumerate(prompts):
        length = len(tokens)
        chosen = list(_in_range(request.routing.queries, length, prompt))
        if not chosen and of_pair * length**2 <= _ROUTES_BYTES:
            chosen = list(range(length))
        elif not chosen:
            chosen = [positions[prompt]]
            warnings.append(
                f"prompts[{prompt}] has {length} tokens: routing is computed for position {positions[prompt]} only"
            )
        if of_pair * length * len(chosen) > _ROUTES_BYTES:
            raise InvalidRequestError(
                f"routing of {len(chosen)} queries of prompts[{prompt}] take "
                f"{of_pair * length * len(chosen) / 1e6:.0f} MB, above the maximum of {_ROUTES_BYTES / 1e6:.0f} MB",
                field="routing.queries",
            )
        found.append(chosen)
    return found


def _in_range(queries: Iterable[int], length: int, prompt: int) -> Iterable[int]:
    counted: dict[int, None] = {}
    for index, query in enumerate(queries):
        position = query + length if query < 0 else query
        if not 0 <= position < length:
            raise InvalidRequestError(
                f"prompts[{prompt}] has {length} tokens: there is no position {query}",
                field=f"routing.queries[{index}]",
            )
        counted[position] = None
    return sorted(counted)


async def _corrupted(
    request: pb.AnalyzeResidualStreamRequest, parts: Sequence[Part], model: RemoteModel, prompts: Sequence[Tokens]
) -> list[Tokens]:
    if FLOW not in parts:
        return []
    if len(request.flow.corrupted) != len(prompts):
        raise InvalidRequestError(
            f"there are {len(prompts)} prompts, but {len(request.flow.corrupted)} corrupted ones",
            field="flow.corrupted",
        )
    corrupted = await model.tokenize_prompts(request.flow.corrupted, "flow.corrupted")
    for index, (clean, other) in enumerate(zip(prompts, corrupted, strict=True)):
        path = f"flow.corrupted[{index}]"
        if len(clean) != len(other):
            raise InvalidRequestError(
                f"prompts[{index}] has {len(clean)} tokens, but its corrupted prompt {len(other)}", field=path
            )
        if clean.ids == other.ids:
            raise InvalidRequestError("the corrupted prompt equals the prompt", field=path)
    return corrupted


async def _translators(
    request: pb.AnalyzeResidualStreamRequest, parts: Sequence[Part], model: RemoteModel
) -> Translators | None:
    if LENS not in parts or not request.lens.HasField("tuned"):
        return None
    try:
        return await Translators.from_message(request.lens.tuned, model)
    except MLXIntegrationError as error:
        error.field = f"lens.tuned.{error.field}".rstrip(".")
        raise
