"""Validation of requests for analyses of the residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from neuroscope.errors import InvalidRequestError, MLXIntegrationError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2, inference_pb2
from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual import head_weights, lm_head, routing
from neuroscope_analysis.residual.attribution import LogitTarget
from neuroscope_analysis.residual.components import Components
from neuroscope_analysis.residual.flow import FlowLimits
from neuroscope_analysis.residual.translators import Translators
from neuroscope_analysis.settings import AnalysisSettings

Part = pb.ResidualPart.ValueType
CONTRIBUTIONS, ATTRIBUTION, LENS = (
    pb.RESIDUAL_PART_CONTRIBUTIONS,
    pb.RESIDUAL_PART_ATTRIBUTION,
    pb.RESIDUAL_PART_LENS,
)
ROUTING, ABLATION, FLOW = pb.RESIDUAL_PART_ROUTING, pb.RESIDUAL_PART_ABLATION, pb.RESIDUAL_PART_FLOW
_DEFAULT_PARTS = (CONTRIBUTIONS, ATTRIBUTION, LENS)
_OF_HEADS = {ROUTING, FLOW}
_TOP_K = 5
_ROUTES_BYTES = 64 * 2**20
"""Maximum bytes of the routing of one prompt."""


@dataclass(slots=True)
class ResidualJob:
    """A validated request."""

    model: RemoteModel
    request: pb.AnalyzeResidualStreamRequest
    parts: list[Part]
    prompts: list[Tokens]
    components: Components
    positions: list[int]
    """The position that predicts the answer, for each prompt."""
    answers: list[int | None]
    """The answer of each prompt; None: the model's prediction."""
    others: list[int | None]
    top_k: int
    neurons: list[tuple[int, int]]
    """Named neurons."""
    neuron_layers: list[int]
    """Layers whose neurons are attributed."""
    queries: list[list[int]]
    """Query positions of routing, for each prompt."""
    corrupted: list[Tokens]
    limits: FlowLimits
    translators: Translators | None
    has_heads: bool
    warnings: list[str] = field(default_factory=list[str])

    def needs_model_answer(self, prompt: int) -> bool:
        """Whether the answer is the model's own prediction."""
        return self.answers[prompt] is None and bool(set(self.parts) - {CONTRIBUTIONS, ROUTING})

    def target(self, prompt: int, likeliest: int | None) -> LogitTarget:
        """The target of a prompt.

        Args:
            prompt: index of the prompt.
            likeliest: the model's prediction, if it is needed.
        """
        answer = self.answers[prompt]
        return LogitTarget(self.positions[prompt], (likeliest or 0) if answer is None else answer, self.others[prompt])

    @property
    def position(self) -> int:
        """The position of the request."""
        return self.request.position if self.request.HasField("position") else -1


async def validate(
    request: pb.AnalyzeResidualStreamRequest, model: RemoteModel, settings: AnalysisSettings
) -> ResidualJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError, ContextLengthError: `field` is the offending field.
    """
    parts = _parts(request)
    if not request.prompts:
        raise InvalidRequestError("there is no prompt", field="prompts")
    if len(request.prompts) > settings.max_prompts:
        raise InvalidRequestError(
            f"at most {settings.max_prompts} prompts a request (the setting max_prompts)", field="prompts"
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
            raise InvalidRequestError("tokens are compared with answers, and none is named", field="answers")
        if answer is not None and answer == other:
            at = min(index, len(request.others) - 1)
            raise InvalidRequestError("the answer is compared with itself", field=f"others[{at}]")
    warnings: list[str] = []
    has_heads = await _has_heads(request, parts, model, settings, warnings)
    if ATTRIBUTION in parts and (why := await lm_head.why_unavailable(model, settings.weights_budget_bytes)):
        if request.parts:
            raise UnavailableSiteError(f"logits cannot be attributed: {why}", field=_field_of(request, ATTRIBUTION))
        parts.remove(ATTRIBUTION)
        warnings.append(f"attribution is left out: {why}")
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
                f"there is no part of number {part}; parts: {', '.join(valid)}", field=f"parts[{index}]", valid=valid
            )
    parts = sorted(set(request.parts or _DEFAULT_PARTS))
    for name, part in (("neurons", ATTRIBUTION), ("routing", ROUTING), ("ablation", ABLATION), ("flow", FLOW)):
        if getattr(request, name).ListFields() and part not in parts:
            raise InvalidRequestError(f"{name} is stated, and parts leave out {valid[part - 1]}", field=name)
    if request.lens.HasField("tuned") and LENS not in parts:
        raise InvalidRequestError("a tuned lens is given, and parts leave out the lens", field="lens.tuned")
    return parts


def _field_of(request: pb.AnalyzeResidualStreamRequest, part: Part) -> str:
    return f"parts[{list(request.parts).index(part)}]" if part in request.parts else "parts"


def _position(request: pb.AnalyzeResidualStreamRequest, prompt: int, length: int) -> int:
    given = request.position if request.HasField("position") else -1
    position = given + length if given < 0 else given
    if not 0 <= position < length:
        raise InvalidRequestError(f"prompts[{prompt}] has {length} tokens, and no position {given}", field="position")
    return position


async def _tokens(
    choices: Sequence[experiment_pb2.TokenChoice], count: int, name: str, model: RemoteModel
) -> list[int | None]:
    """A token for each prompt; None if the request has none."""
    if not choices:
        return [None] * count
    if len(choices) not in (1, count):
        raise InvalidRequestError(
            f"{name} are one for all prompts or one for each of the {count}, not {len(choices)}", field=name
        )
    found = [await _token(choice, f"{name}[{index}]", model) for index, choice in enumerate(choices)]
    return [*found] if len(found) == count else [*(found * count)]


async def _token(choice: experiment_pb2.TokenChoice, path: str, model: RemoteModel) -> int:
    vocabulary = model.info.model.vocab_size
    match choice.WhichOneof("token"):
        case "id":
            if choice.id >= vocabulary:
                raise InvalidRequestError(
                    f"token {choice.id} is outside the vocabulary of {vocabulary}", field=f"{path}.id"
                )
            return choice.id
        case "text":
            prompt = inference_pb2.Prompt(text=choice.text, bos=inference_pb2.BOS_POLICY_OMIT)
            tokens = await model.tokenize_text(prompt, f"{path}.text")
            if len(tokens) != 1:
                parts = ", ".join(map(repr, tokens.tokens))
                raise InvalidRequestError(
                    f"{choice.text!r} is not one token but {len(tokens)}: {parts}", field=f"{path}.text"
                )
            return tokens.ids[0]
        case _:
            raise InvalidRequestError("a token is an id or a text", field=path)


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
        warnings.append(f"heads are left out: {why}")
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
            f"{model.model_id} has no neurons that can be read: {'; '.join(sorted(reasons))}", field="neurons"
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
                f"layer {layer} has {widths[layer]} neurons, and no neuron {named.neuron}", field=f"{path}.neuron"
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
                f"prompts[{prompt}] has {length} tokens: of so many routes those to position {positions[prompt]} are "
                "told"
            )
        if of_pair * length * len(chosen) > _ROUTES_BYTES:
            raise InvalidRequestError(
                f"routes of {len(chosen)} queries of prompts[{prompt}] take "
                f"{of_pair * length * len(chosen) / 1e6:.0f} MB; at most {_ROUTES_BYTES / 1e6:.0f} are told",
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
                f"prompts[{prompt}] has {length} tokens, and no position {query}", field=f"routing.queries[{index}]"
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
            f"there are {len(prompts)} prompts and {len(request.flow.corrupted)} corrupted ones", field="flow.corrupted"
        )
    corrupted = await model.tokenize_prompts(request.flow.corrupted, "flow.corrupted")
    for index, (clean, other) in enumerate(zip(prompts, corrupted, strict=True)):
        path = f"flow.corrupted[{index}]"
        if len(clean) != len(other):
            raise InvalidRequestError(
                f"prompts[{index}] has {len(clean)} tokens and its corrupted one {len(other)}", field=path
            )
        if clean.ids == other.ids:
            raise InvalidRequestError("it is the prompt itself: there is no difference to follow", field=path)
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
