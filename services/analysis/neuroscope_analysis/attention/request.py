"""A request for an analysis of attention, checked against its model before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError, UnavailableSiteError, nearest
from neuroscope.model_info import Tokens
from neuroscope.v1 import attention_pb2 as pb
from neuroscope_analysis.attention import circuits
from neuroscope_analysis.attention.roles import ROLES, Role, role_name
from neuroscope_analysis.attention.sequences import RepeatedBlocks
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_analysis.upstream import InspectedModel

PATTERN, HEAD_OUTPUT = "attention_pattern", "head_output"


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """What is to be done."""

    model: InspectedModel
    prompts: list[Tokens]
    layers: list[int]
    heads: int
    """The most heads of a layer."""
    roles: list[Role]
    thresholds: dict[pb.HeadRole.ValueType, float]
    sequences: RepeatedBlocks | None
    """None: no roles are scored."""
    causal_test: pb.CausalTest | None
    """None: labels are not tested."""
    why_not_tested: str = ""
    warnings: tuple[str, ...] = ()
    """What was left out."""


async def checked(
    request: pb.AnalyzeAttentionRequest, model: InspectedModel, settings: AnalysisSettings
) -> AttentionWork:
    """The work of a request.

    Raises:
        InvalidRequestError, UnavailableSiteError, ContextLengthError: names the field.
    """
    roles = _roles(request)
    if not request.prompts and not roles:
        raise InvalidRequestError("there is neither a prompt nor a role to score", field="prompts")
    if len(request.prompts) > settings.max_prompts:
        raise InvalidRequestError(
            f"at most {settings.max_prompts} prompts a request (the setting max_prompts)", field="prompts"
        )
    thresholds = _thresholds(request)
    test = _causal_test(request)
    layers = _layers(request, model)
    warnings: list[str] = []
    if any(role.by_weights for role in roles):
        why = await circuits.why_not(model, layers, settings.weights_budget_bytes)
        if why and request.roles:
            index = next(index for index, role in enumerate(roles) if role.by_weights)
            raise UnavailableSiteError(f"{roles[index].name} is scored by weights: {why}", field=f"roles[{index}]")
        if why:
            warnings.append(f"copying and suppression are left out: {why}")
            roles = [role for role in roles if not role.by_weights]
    sequences = RepeatedBlocks.drawn(request.sequences, model.info.model) if roles else None
    prompts = await model.tokenize(request.prompts)
    for index, tokens in enumerate(prompts):
        if len(tokens) < 2:
            raise InvalidRequestError(
                f"prompts[{index}] is one token, which attends to itself", field=f"prompts[{index}]"
            )
    untestable = sorted(set(layers) - set(model.layers(HEAD_OUTPUT))) if test is not None and roles else []
    untested = (
        f"heads of layers {', '.join(map(str, untestable))} cannot be ablated on this model" if untestable else ""
    )
    return AttentionWork(
        model,
        prompts,
        layers,
        model.info.model.num_heads,
        roles,
        thresholds,
        sequences,
        None if untested else test,
        untested or ("the request skips it" if test is None else ""),
        tuple(warnings),
    )


def _roles(request: pb.AnalyzeAttentionRequest) -> list[Role]:
    if request.statistics_only:
        if request.roles:
            raise InvalidRequestError("roles are named, and statistics_only leaves them out", field="statistics_only")
        return []
    for index, role in enumerate(request.roles):
        if role not in ROLES:
            valid = [known.name for known in ROLES.values()]
            raise InvalidRequestError(
                f"there is no role of number {role}; roles: {', '.join(valid)}", field=f"roles[{index}]", valid=valid
            )
    wanted = dict.fromkeys(request.roles or ROLES)
    return [ROLES[role] for role in wanted]


def _thresholds(request: pb.AnalyzeAttentionRequest) -> dict[pb.HeadRole.ValueType, float]:
    found = {role: known.threshold for role, known in ROLES.items()}
    for index, given in enumerate(request.thresholds):
        field = f"thresholds[{index}]"
        if given.role not in ROLES:
            raise InvalidRequestError(f"there is no role of number {given.role}", field=f"{field}.role")
        if not 0 < given.score <= 1:
            raise InvalidRequestError(
                f"a score of {role_name(given.role)} is above 0 and at most 1, not {given.score:g}",
                field=f"{field}.score",
            )
        found[given.role] = given.score
    return found


def _causal_test(request: pb.AnalyzeAttentionRequest) -> pb.CausalTest | None:
    test, field = request.causal_test, "causal_test"
    if not math.isfinite(test.least_effect_nats) or test.least_effect_nats < 0:
        raise InvalidRequestError("an effect is a number of nats from 0", field=f"{field}.least_effect_nats")
    if not 0 <= test.significance < 1:
        raise InvalidRequestError("a significance lies between 0 and 1", field=f"{field}.significance")
    return None if test.skip else test


def _layers(request: pb.AnalyzeAttentionRequest, model: InspectedModel) -> list[int]:
    there = model.layers(PATTERN)
    if not there:
        reasons = {point.reason for point in model.info.points if point.site.component == PATTERN and point.reason}
        raise UnavailableSiteError(
            f"{model.model_id} has no attention patterns: {'; '.join(sorted(reasons)) or 'no layer has attention'}",
            field="model_id",
        )
    count = model.info.model.num_layers
    found: list[int] = []
    for index, layer in enumerate(request.layers):
        number = layer + count if layer < 0 else layer
        field = f"layers[{index}]"
        if not 0 <= number < count:
            raise InvalidRequestError(f"there is no layer {layer}: {model.model_id} has {count}", field=field)
        if number not in there:
            valid = nearest(str(number), map(str, there))
            raise UnavailableSiteError(
                f"layer {number} has no attention patterns; layers that have: {', '.join(map(str, there))}",
                field=field,
                valid=valid,
            )
        if number in found:
            raise InvalidRequestError(f"layer {number} is named twice", field=field)
        found.append(number)
    return found or there
