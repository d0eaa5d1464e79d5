"""Validation of requests for attention analyses."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.results.labels import role_name
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens
from neuroscope_analysis import significance
from neuroscope_analysis.attention import copying_scores, name_movers, named_pairs
from neuroscope_analysis.attention.named_pairs import NamedPair
from neuroscope_analysis.attention.pattern_capture import ATTENTION_PATTERN
from neuroscope_analysis.attention.repeated_sequences import RepeatedSequences
from neuroscope_analysis.attention.roles import ROLES, Role
from neuroscope_analysis.layers import layers_with_component
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.settings import AnalysisSettings

HEAD_OUTPUT = "head_output"


@dataclass(frozen=True, slots=True)
class AttentionJob:
    """A validated request."""

    model: RemoteModel
    prompts: list[Tokens]
    layers: list[int]
    head_count: int
    """Maximum number of heads of a layer."""
    roles: list[Role]
    thresholds: dict[pb.HeadRole.ValueType, float]
    sequences: RepeatedSequences | None
    """None: no role is scored on random sequences."""
    named_pairs: list[NamedPair]
    """Empty: name movers and S-inhibition heads are not scored."""
    causal_test: pb.CausalTest
    why_not_tested: str = ""
    """Why labels are not tested; empty if they are."""
    why_paths_not_tested: str = ""
    """Why labels of named pairs are not tested."""
    warnings: tuple[str, ...] = ()
    """What is skipped."""


async def validate(request: pb.AnalyzeAttentionRequest, model: RemoteModel, settings: AnalysisSettings) -> AttentionJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError, ContextLengthError: `field` is the offending field.
    """
    roles = _roles(request)
    if not request.prompts and not roles:
        raise InvalidRequestError("there is neither a prompt nor a role to score", field="prompts")
    if len(request.prompts) > settings.max_prompts:
        raise InvalidRequestError(
            f"at most {settings.max_prompts} prompts a request (the setting max_prompts)", field="prompts"
        )
    thresholds = _thresholds(request)
    test, field = request.causal_test, "causal_test"
    significance.check_ranges(
        test.least_effect_nats, test.significance, f"{field}.least_effect_nats", f"{field}.significance"
    )
    layers = layers_with_component(request.layers, model, ATTENTION_PATTERN, "attention patterns")
    warnings: list[str] = []
    for needed, group in ((copying_scores.COPYING_WEIGHTS, _needs_weights), (("W_O",), _needs_paths)):
        if not any(map(group, roles)):
            continue
        why = await copying_scores.why_unavailable(model, layers, settings.weights_budget_bytes, needed)
        if why and request.roles:
            index = next(index for index, role in enumerate(roles) if group(role))
            raise UnavailableSiteError(f"{roles[index].name} is scored by weights: {why}", field=f"roles[{index}]")
        if why:
            left_out = " and ".join(role.name.replace("_", " ") for role in roles if group(role))
            warnings.append(f"{left_out} are left out: {why}")
            roles = [role for role in roles if not group(role)]
    on_sequences = any(not role.path_receiver for role in roles)
    sequences = RepeatedSequences.draw(request.sequences, model.info.model) if on_sequences else None
    prompts = [await model.tokenize_prompt(prompt, f"prompts[{index}]") for index, prompt in enumerate(request.prompts)]
    named: list[NamedPair] = []
    if any(map(_needs_paths, roles)):
        named = await named_pairs.resolve_named_pairs(request.named_pairs, model, settings.max_prompts)
    skipped = "the request skips it" if request.causal_test.skip else ""
    why_no_paths = await name_movers.why_no_paths(model, layers) if named and not skipped else skipped
    untestable = sorted(set(layers) - set(model.layers(HEAD_OUTPUT)))
    untested = (
        f"heads of layers {', '.join(map(str, untestable))} cannot be ablated on this model" if untestable else ""
    )
    return AttentionJob(
        model,
        prompts,
        layers,
        model.info.model.num_heads,
        roles,
        thresholds,
        sequences,
        named,
        request.causal_test,
        skipped or untested,
        why_no_paths,
        tuple(warnings),
    )


def _roles(request: pb.AnalyzeAttentionRequest) -> list[Role]:
    if request.statistics_only:
        if request.roles or request.named_pairs:
            given = "roles are named" if request.roles else "named pairs are given"
            raise InvalidRequestError(f"{given}, and statistics_only leaves roles out", field="statistics_only")
        return []
    for index, role in enumerate(request.roles):
        if role not in ROLES:
            valid = [known.name for known in ROLES.values()]
            raise InvalidRequestError(
                f"there is no role of number {role}; roles: {', '.join(valid)}", field=f"roles[{index}]", valid=valid
            )
        if ROLES[role].path_receiver and not request.named_pairs:
            raise InvalidRequestError(
                f"{ROLES[role].name} is scored on named pairs: give two at least", field="named_pairs"
            )
    wanted = dict.fromkeys(request.roles or ROLES)
    found = [ROLES[role] for role in wanted if request.named_pairs or not ROLES[role].path_receiver]
    if pb.HEAD_ROLE_S_INHIBITION in wanted and pb.HEAD_ROLE_NAME_MOVER not in wanted:
        raise InvalidRequestError("s_inhibition is tested on name movers: ask for name_mover, too", field="roles")
    if request.named_pairs and not any(map(_needs_paths, found)):
        raise InvalidRequestError("named pairs are given, and no role that is scored on them", field="roles")
    return found


def _needs_weights(role: Role) -> bool:
    return role.uses_weights


def _needs_paths(role: Role) -> bool:
    return bool(role.path_receiver)


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
