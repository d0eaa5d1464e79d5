"""A request for an analysis of attention, checked against its model before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.results.labels import role_name
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens
from neuroscope_analysis import bounds
from neuroscope_analysis.attention import circuits, name_heads, named_pairs
from neuroscope_analysis.attention.named_pairs import NamedPair
from neuroscope_analysis.attention.reading import PATTERN
from neuroscope_analysis.attention.roles import ROLES, Role
from neuroscope_analysis.attention.sequences import RepeatedBlocks
from neuroscope_analysis.layers import with_component
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_analysis.upstream import InspectedModel

HEAD_OUTPUT = "head_output"


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
    """None: no roles are scored on them."""
    named_pairs: list[NamedPair]
    """None: neither are name movers and S-inhibition heads."""
    causal_test: pb.CausalTest
    why_not_tested: str = ""
    """Why labels are not tested; empty: they are."""
    why_no_paths: str = ""
    """Why labels of named pairs are not."""
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
    test, field = request.causal_test, "causal_test"
    bounds.check(test.least_effect_nats, test.significance, f"{field}.least_effect_nats", f"{field}.significance")
    layers = with_component(request.layers, model, PATTERN, "attention patterns")
    warnings: list[str] = []
    for needed, group in ((circuits.NEEDED, _by_weights), (("W_O",), _by_paths)):
        if not any(map(group, roles)):
            continue
        why = await circuits.why_not(model, layers, settings.weights_budget_bytes, needed)
        if why and request.roles:
            index = next(index for index, role in enumerate(roles) if group(role))
            raise UnavailableSiteError(f"{roles[index].name} is scored by weights: {why}", field=f"roles[{index}]")
        if why:
            left_out = " and ".join(role.name.replace("_", " ") for role in roles if group(role))
            warnings.append(f"{left_out} are left out: {why}")
            roles = [role for role in roles if not group(role)]
    on_sequences = any(not role.path_to for role in roles)
    sequences = RepeatedBlocks.drawn(request.sequences, model.info.model) if on_sequences else None
    prompts = [await model.tokens(prompt, f"prompts[{index}]") for index, prompt in enumerate(request.prompts)]
    named: list[NamedPair] = []
    if any(map(_by_paths, roles)):
        named = await named_pairs.checked(request.named_pairs, model, settings.max_prompts)
    skipped = "the request skips it" if request.causal_test.skip else ""
    why_no_paths = await name_heads.why_no_paths(model, layers) if named and not skipped else skipped
    untestable = sorted(set(layers) - set(model.layers(HEAD_OUTPUT)))
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
        if ROLES[role].path_to and not request.named_pairs:
            raise InvalidRequestError(
                f"{ROLES[role].name} is scored on named pairs: give two at least", field="named_pairs"
            )
    wanted = dict.fromkeys(request.roles or ROLES)
    found = [ROLES[role] for role in wanted if request.named_pairs or not ROLES[role].path_to]
    if pb.HEAD_ROLE_S_INHIBITION in wanted and pb.HEAD_ROLE_NAME_MOVER not in wanted:
        raise InvalidRequestError("s_inhibition is tested on name movers: ask for name_mover, too", field="roles")
    if request.named_pairs and not any(map(_by_paths, found)):
        raise InvalidRequestError("named pairs are given, and no role that is scored on them", field="roles")
    return found


def _by_weights(role: Role) -> bool:
    return role.by_weights


def _by_paths(role: Role) -> bool:
    return bool(role.path_to)


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
