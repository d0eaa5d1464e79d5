"""What a client gets wrong: told by status, field and the names it may have meant; and the service goes on as before.

python -m pytest tests/integration/test_bad_input.py
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.errors import (
    ContextLengthError,
    DataConversionError,
    HookNeverFiredError,
    IdTakenError,
    InvalidRequestError,
    MLXIntegrationError,
    ModelNotFoundError,
    ResourceExhaustedError,
    UnavailableSiteError,
    UnknownIdError,
    UnknownSiteError,
    error_classes,
)
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import site_pb2, telemetry_pb2
from neuroscope.wire import status
from neuroscope.wire.rpc import RPCS, Rpc
from neuroscope.wire.transport import GrpcTransport
from tests.support import tracing
from tests.support.following import Follower
from tests.support.recording import Hook, capture_request, generate_request, prompt, record
from tests.support.services import Service

IDS = [0, 50, 60, 70]
CONTEXT = 4096
LONG = "n" * 9000
MISTAKES = {cls.grpc_status for cls in error_classes().values() if cls.openai_type == "invalid_request_error"}
"""Every status that blames the caller; there is no UNKNOWN and no INTERNAL among them."""


@pytest.fixture(scope="module")
def channel(inference: Service) -> Iterator[grpc.Channel]:
    """A channel below the SDK, which sends whatever bytes it is given."""
    with grpc.insecure_channel(inference.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def greedy(grpc_transport: GrpcTransport) -> list[int]:
    """What the service generates while nobody has done anything wrong."""
    return short_generation(grpc_transport)


@pytest.fixture(autouse=True)
def still_serves(grpc_transport: GrpcTransport, greedy: list[int]) -> Iterator[None]:
    """After each test the service generates what it did before."""
    yield
    assert short_generation(grpc_transport) == greedy


def short_generation(transport: GrpcTransport) -> list[int]:
    return record(transport, generate_request(prompt(IDS), max_tokens=4, ignore_eos=True), timeout_s=30).token_ids()


# ------------------------------------------------------------------------------------------------ how errors come


@dataclass(frozen=True)
class Case:
    """A request that is refused, and how."""

    rpc: str
    request: Message
    error: type[MLXIntegrationError]
    field: str = ""
    says: str = ""
    """Words of the message."""
    valid: tuple[str, ...] = ()
    """The names that come first among the nearest ones."""


def call(channel: grpc.Channel, rpc: Rpc, requests: bytes | list[bytes], **options: Any) -> list[bytes]:
    """Every response to these bytes."""
    kind = f"{'unary' if isinstance(requests, bytes) else 'stream'}_{'stream' if rpc.streams_responses else 'unary'}"
    make: Callable[..., Any] = getattr(channel, kind)
    sent = requests if isinstance(requests, bytes) else iter(requests)
    answer = make(rpc.path)(sent, timeout=30, **options)
    return list(answer) if rpc.streams_responses else [answer]


def refused(channel: grpc.Channel, case: Case) -> MLXIntegrationError:
    """Checks how a request is refused; the error as the SDK gives it."""
    rpc = RPCS[case.rpc]
    raw = case.request.SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, rpc, [raw] if rpc.streams_requests else raw)
    error = status.from_rpc_error(caught.value)
    assert type(error) is case.error, error
    assert caught.value.code() is case.error.grpc_status
    assert error.field == case.field
    assert violations(caught.value) == ([case.field] if case.field and is_invalid(caught.value) else [])
    assert case.says in error.message
    assert error.valid[: len(case.valid)] == case.valid
    for name in case.valid:
        assert name in error.message
    assert "Traceback" not in error.message
    return error


def is_invalid(error: grpc.RpcError) -> bool:
    return error.code() is grpc.StatusCode.INVALID_ARGUMENT


def violations(error: Any) -> list[str]:
    """Fields of the BadRequest of a status."""
    found: Any = rpc_status.from_call(error)
    bad = error_details_pb2.BadRequest()
    return [v.field for detail in found.details if detail.Unpack(bad) for v in bad.field_violations]


def generate(*hooks: Any, ids: Any = IDS, **fields: Any) -> pb.GenerateRequest:
    defaults: dict[str, Any] = {"max_tokens": 2, "ignore_eos": True}
    return generate_request(prompt(ids), *hooks, **(defaults | fields))


def capture(*hooks: Any, ids: Any = IDS, **fields: Any) -> pb.CaptureRequest:
    return capture_request(prompt(ids), *hooks, **fields)


def spec(component: str = "resid_post", *, dtype: int = 0, **fields: Any) -> pb.HookSpec:
    """A hook that the SDK would not write."""
    site = {name: fields.pop(name) for name in ("layer", "layer_name", "side") if name in fields}
    return pb.HookSpec(site=site_pb2.Site(component=component, **site), dtype=dtype, **fields)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ models and prompts

PROMPT = pb.Prompt(token_ids=pb.TokenIds(ids=IDS))


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("Generate", generate(model_id="lama")),
        ("Capture", capture("resid_post", model_id="lama")),
        ("Tokenize", pb.TokenizeRequest(model_id="lama", prompt=PROMPT)),
        ("Detokenize", pb.DetokenizeRequest(model_id="lama", token_ids=IDS)),
        ("GetModel", pb.GetModelRequest(model_id="lama")),
        ("RegisterHooks", pb.RegisterHooksRequest(model_id="lama", hooks=[spec()])),
        ("UnloadModel", pb.UnloadModelRequest(model_id="lama")),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest(channel: grpc.Channel, rpc: str, request_: Message) -> None:
    refused(channel, Case(rpc, request_, ModelNotFoundError, "model_id", "'lama'", ("llama",)))


def wizard() -> pb.Prompt:
    """A message of a role that the bundled model's template does not know."""
    return prompt([{"role": "user", "content": "Hello"}, {"role": "wizard", "content": "Abracadabra"}])


PROMPTS: dict[str, tuple[list[pb.Prompt], type[MLXIntegrationError], str, str]] = {
    "none": ([], InvalidRequestError, "prompts", "no prompt"),
    "too many": ([PROMPT] * 257, InvalidRequestError, "prompts", "256"),
    "no content": ([PROMPT, pb.Prompt()], InvalidRequestError, "prompts[1]", "no content"),
    "empty text": ([prompt("")], InvalidRequestError, "prompts[0].text", "empty"),
    "no ids": ([pb.Prompt(token_ids=pb.TokenIds())], InvalidRequestError, "prompts[0]", "no tokens"),
    "no messages": ([pb.Prompt(chat=pb.Chat())], InvalidRequestError, "prompts[0].chat.messages", "no messages"),
    "no role": ([prompt([{"content": "x"}])], InvalidRequestError, "prompts[0].chat.messages[0].role", "no role"),
    "unknown role": ([PROMPT, wizard()], InvalidRequestError, "prompts[1].chat.messages", "Unknown role wizard"),
    "id too high": ([prompt([5, 99999])], InvalidRequestError, "prompts[0].token_ids.ids[1]", "99999"),
    "highest id": ([prompt([2**32 - 1])], InvalidRequestError, "prompts[0].token_ids.ids[0]", "vocabulary"),
    "unknown policy": ([pb.Prompt(text="x", bos=9)], InvalidRequestError, "prompts[0].bos", "9"),  # type: ignore[arg-type]
    "too long": ([prompt([5] * (CONTEXT + 1))], ContextLengthError, "prompts[0]", f"{CONTEXT + 1} tokens"),
    "too long by its BOS": (
        [prompt([5] * CONTEXT, pb.BOS_POLICY_ADD)],
        ContextLengthError,
        "prompts[0]",
        f"{CONTEXT + 1} tokens",
    ),
    "a text too long": ([PROMPT, prompt("When Alice " * CONTEXT)], ContextLengthError, "prompts[1]", "holds 4096"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_that_cannot_be_read_are_named(channel: grpc.Channel, name: str) -> None:
    prompts, error, field, says = PROMPTS[name]
    model_id = "neuroscope-tiny" if name == "unknown role" else ""
    requests = {
        "Generate": generate_request(prompts, model_id=model_id),
        "Capture": capture_request(prompts, "resid_post", model_id=model_id),
    }
    for rpc, request in requests.items():
        refused(channel, Case(rpc, request, error, field, says))
    if prompts and name != "too many":
        field = field.removeprefix(f"prompts[{len(prompts) - 1}]")
        request = pb.TokenizeRequest(prompt=prompts[-1], model_id=model_id)
        refused(channel, Case("Tokenize", request, error, f"prompt{field}", says))


def test_a_negative_id_does_not_even_leave_the_client() -> None:
    with pytest.raises(ValueError, match="-1"):
        prompt([5, -1])


def test_an_id_that_cannot_be_put_into_words_is_named(channel: grpc.Channel) -> None:
    request = pb.DetokenizeRequest(token_ids=[5, 6, 512])
    refused(channel, Case("Detokenize", request, InvalidRequestError, "token_ids[2]", "vocabulary of 512"))


# ------------------------------------------------------------------------------------------------ hooks

COMPONENT, LAYER, LAYER_NAME = (f"hooks[0].site.{name}" for name in ("component", "layer", "layer_name"))
HEADS, POSITIONS, STEPS = (f"hooks[0].select.{name}" for name in ("heads", "positions", "steps"))

SITES: dict[str, tuple[pb.HookSpec, str, str, tuple[str, ...]]] = {
    "nothing": (pb.HookSpec(), COMPONENT, "missing", ("embedding",)),
    "no site": (pb.HookSpec(hook_id="a"), COMPONENT, "missing", ("embedding",)),
    "no component": (pb.HookSpec(site=site_pb2.Site(layer=1)), COMPONENT, "missing", ("embedding",)),
    "misspelt": (spec("resid_pst"), COMPONENT, "'resid_pst'", ("resid_post",)),
    "of the REST format, misspelt": (spec("atention_pattern"), COMPONENT, "unknown", ("attention_pattern",)),
    "of TransformerLens, misspelt": (
        spec("blocks.1.attn.hook_patern"),
        COMPONENT,
        "unknown",
        ("blocks.1.attn.hook_pattern",),
    ),
    "like nothing": (spec("☃"), COMPONENT, "unknown component '☃'", ("embedding",)),
    "a number of 9000 digits": (spec(f"blocks.{'9' * 9000}.hook_resid_post"), COMPONENT, "unknown", ()),
    "a layer too high": (spec(layer=4), LAYER, "layers 0 to 3", ()),
    "a layer too low": (spec(layer=-5), LAYER, "layers 0 to 3", ()),
    "the highest layer": (spec(layer=2**31 - 1), LAYER, "layers 0 to 3", ()),
    "the lowest layer": (spec(layer=-(2**31)), LAYER, "layers 0 to 3", ()),
    "a layer by name, too high": (spec(layer_name="transformer.h.7"), LAYER_NAME, "layer 7", ()),
    "a layer by a TransformerLens name": (spec("blocks.9.hook_resid_post"), LAYER, "layer 9", ()),
    "a layer name, misspelt": (
        spec(layer_name="transfomer.h.0"),
        LAYER_NAME,
        "'transfomer.h.0'",
        ("transformer.h.0",),
    ),
    "a layer name of 9000 digits": (spec(layer_name=f"layers.{'9' * 9000}"), LAYER_NAME, "unknown layer", ()),
    "two layers": (spec(layer=1, layer_name="layers.2"), LAYER, "[1, 2]", ()),
    "a layer where there is none": (spec("logits", layer=1), LAYER, "belongs to no layer", ()),
    "the place of another": (spec(layer_name="lm_head"), LAYER_NAME, "the place of logits", ()),
    "a place of no layer": (spec("layernorm", layer_name="norm"), LAYER_NAME, "the place of final_norm", ()),
    "a side that it does not have": (spec(side=1), "hooks[0].site.side", "no input side", ("attn_out",)),
    "a side that nothing has": (spec(side=9), "hooks[0].site.side", "9", ()),
}


@pytest.mark.parametrize("name", SITES)
def test_sites_that_are_nowhere_are_answered_with_the_nearest(channel: grpc.Channel, name: str) -> None:
    hook, field, says, valid = SITES[name]
    requests = {
        "Generate": generate(hook),
        "Capture": capture(hook),
        "RegisterHooks": pb.RegisterHooksRequest(hooks=[hook], model_id="llama"),
    }
    for rpc, request in requests.items():
        refused(channel, Case(rpc, request, UnknownSiteError, field, says, valid))


def test_the_second_hook_is_at_fault(channel: grpc.Channel) -> None:
    request = capture("resid_post", Hook("attention_pattern", 1, heads=[0, 8]))
    case = Case("Capture", request, InvalidRequestError, "hooks[1].select.heads", "heads 0 to 7")
    refused(channel, case)


def steps(start: int, stop: int | None = None) -> site_pb2.Selector:
    return site_pb2.Selector(steps=site_pb2.StepSelector(start=start, stop=stop))


SELECTIONS: dict[str, tuple[Any, type[MLXIntegrationError], str, str]] = {
    "a head too high": (Hook("attention_pattern", 1, heads=[8]), InvalidRequestError, HEADS, "heads 0 to 7"),
    "a head too low": (Hook("attention_pattern", 1, heads=[-9]), InvalidRequestError, HEADS, "heads 0 to 7"),
    "the lowest head": (Hook("query", 1, heads=[-(2**31)]), InvalidRequestError, HEADS, "heads 0 to 7"),
    "a query's head of a key": (Hook("key", 1, heads=[2]), InvalidRequestError, HEADS, "heads 0 to 1"),
    "a head of what has none": (Hook("resid_post", 1, heads=[0]), InvalidRequestError, HEADS, "no heads"),
    "a position too high": (Hook("resid_post", 1, positions=[0, 6]), InvalidRequestError, POSITIONS, "position 6"),
    "a position too low": (Hook("resid_post", 1, positions=-5), InvalidRequestError, POSITIONS, "4 tokens"),
    "no position": (Hook("resid_post", 1, positions=[]), InvalidRequestError, POSITIONS, "no position"),
    "positions of neither kind": (
        spec(select=site_pb2.Selector(positions=site_pb2.PositionSelector())),
        InvalidRequestError,
        POSITIONS,
        "no position",
    ),
    "no step": (spec(select=steps(3, 3)), InvalidRequestError, STEPS, "no step"),
    "steps backwards": (spec(select=steps(3, 1)), InvalidRequestError, STEPS, "no step"),
    "the highest step": (spec(select=steps(2**32 - 1)), InvalidRequestError, STEPS, "no step"),
    "a row too high": (
        spec(select=site_pb2.Selector(rows=[0, 1])),
        InvalidRequestError,
        "hooks[0].select.rows",
        "row 1",
    ),
    "an integer type": (Hook("resid_post", 1, dtype="int8"), DataConversionError, "hooks[0].dtype", "float16"),
    "a type too wide": (Hook("resid_post", 1, dtype="float64"), DataConversionError, "hooks[0].dtype", "FLOAT64"),
    "a type that there is not": (spec(dtype=99), DataConversionError, "hooks[0].dtype", "99"),
    # What can only be known when all has been run; the tokens have come by then.
    "a range that begins too late": (
        Hook("resid_post", 1, positions=slice(9, None)),
        HookNeverFiredError,
        "hooks[0]",
        "resid_post.1",
    ),
    "a range backwards": (Hook("resid_post", 1, positions=slice(3, 1)), HookNeverFiredError, "hooks[0]", "nothing"),
    "a step that never comes": (Hook("resid_post", 1, steps=5), HookNeverFiredError, "hooks[0]", "nothing"),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_parts_that_are_not_there_are_named(channel: grpc.Channel, name: str) -> None:
    hook, error, field, says = SELECTIONS[name]
    for rpc, request in {"Generate": generate(hook), "Capture": capture(hook)}.items():
        refused(channel, Case(rpc, request, error, field, says))


def test_a_range_has_no_step() -> None:
    """The contract cannot say one, so the SDK refuses it."""
    for step in (0, 2, -1):
        with pytest.raises(InvalidRequestError, match="no step"):
            capture(Hook("resid_post", 1, positions=slice(0, 4, step)))


@pytest.mark.parametrize("model_id", ["llama", "gpt2"])
def test_a_point_that_a_model_lacks_is_answered_with_the_published_reason(
    channel: grpc.Channel, grpc_transport: GrpcTransport, model_id: str
) -> None:
    described: Any = grpc_transport.unary(RPCS["GetModel"], pb.GetModelRequest(model_id=model_id))
    lacking = [point for point in described.points if not point.available and point.site.layer == 1]
    assert {point.site.component for point in lacking} >= {"router_logits", "expert_indices", "expert_weights"}
    there = {point.site.component for point in described.points if point.available}
    for point in lacking:
        assert point.reason
        hook = pb.HookSpec(site=point.site)
        for rpc, request in {
            "Generate": generate("resid_post", hook, model_id=model_id),
            "Capture": capture("resid_post", hook, model_id=model_id),
        }.items():
            error = refused(channel, Case(rpc, request, UnavailableSiteError, "hooks[1].site.component", point.reason))
            assert error.valid
            assert set(error.valid) <= there
            assert len(error.valid) == len(set(error.valid))


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        (capture(), "hooks", "captures nothing"),
        (capture("resid_post.1", "resid_post.1"), "hooks[1]", "twice"),
        (capture("resid_post", "resid_post.-1"), "hooks[1]", "resid_post.3 twice"),
        (capture(Hook("resid_post", 1, hook_id="a"), Hook("residual", 1, hook_id="a")), "hooks[1]", "'a'"),
        (capture("resid_post", stop_at_layer=0), "stop_at_layer", "between 1 and 4"),
        (capture("resid_post", stop_at_layer=5), "stop_at_layer", "between 1 and 4"),
        (capture("resid_post", stop_at_layer=2**32 - 1), "stop_at_layer", "between 1 and 4"),
    ],
)
def test_captures_that_make_no_sense(channel: grpc.Channel, request_: Message, field: str, says: str) -> None:
    refused(channel, Case("Capture", request_, InvalidRequestError, field, says))


def test_a_hook_above_the_last_layer_that_runs(channel: grpc.Channel) -> None:
    request = capture("resid_post.0", "resid_post.3", stop_at_layer=2)
    refused(channel, Case("Capture", request, UnknownSiteError, "hooks[1].site.layer", "stop_at_layer is 2"))


# ------------------------------------------------------------------------------------------------ stored hooks


@pytest.fixture
def stored(grpc_transport: GrpcTransport) -> Iterator[list[str]]:
    """Stored hooks: a good one, one of a head that llama does not have, one of a type that there is not."""
    hooks = [
        Hook("resid_post", 1, hook_id="good").to_message(),
        Hook("attention_pattern", 1, hook_id="head 8", heads=[8]).to_message(),
        spec(hook_id="type 99", dtype=99),
    ]
    answer: Any = grpc_transport.unary(RPCS["RegisterHooks"], pb.RegisterHooksRequest(hooks=hooks))
    yield list(answer.hook_ids)
    grpc_transport.unary(RPCS["ClearHooks"], pb.ClearHooksRequest(hook_ids=list(answer.hook_ids)))


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("rpc", "request_", "error", "field", "valid"),
    [
        ("Generate", generate(hook_ids=["good", "god"]), UnknownIdError, "hook_ids[1]", ("good",)),
        ("Capture", capture(hook_ids=["god"]), UnknownIdError, "hook_ids[0]", ("good",)),
        ("ClearHooks", pb.ClearHooksRequest(hook_ids=["good", "god"]), UnknownIdError, "hook_ids[1]", ("good",)),
        ("Generate", generate(hook_ids=["good", "head 8"]), InvalidRequestError, "hook_ids[1].select.heads", ()),
        ("Capture", capture(hook_ids=["type 99"]), DataConversionError, "hook_ids[0].dtype", ()),
        ("Generate", generate(hook_ids=["good", "good"]), InvalidRequestError, "hook_ids[1]", ()),
        ("RegisterHooks", pb.RegisterHooksRequest(hooks=[spec(hook_id="good")]), IdTakenError, "hooks[0].hook_id", ()),
        (
            "RegisterHooks",
            pb.RegisterHooksRequest(hooks=[spec(hook_id="new")] * 2),
            IdTakenError,
            "hooks[1].hook_id",
            (),
        ),
    ],
)
def test_stored_hooks_that_are_not_there_or_do_not_fit(
    channel: grpc.Channel,
    grpc_transport: GrpcTransport,
    stored: list[str],
    rpc: str,
    request_: Message,
    error: type[MLXIntegrationError],
    field: str,
    valid: tuple[str, ...],
) -> None:
    """None is stored or removed by a call that fails."""
    refused(channel, Case(rpc, request_, error, field, "", valid))
    answer: Any = grpc_transport.unary(RPCS["ListHooks"], pb.ListHooksRequest())
    assert [hook.hook_id for hook in answer.hooks] == stored


# ------------------------------------------------------------------------------------------------ sampling

SAMPLING: list[tuple[str, Any, str]] = [
    ("temperature", -0.1, "temperature"),
    ("temperature", math.nan, "temperature"),
    ("temperature", math.inf, "temperature"),
    ("temperature", 1e9, "temperature"),
    ("top_p", 0.0, "top_p"),
    ("top_p", -1.0, "top_p"),
    ("top_p", 1.001, "top_p"),
    ("top_p", math.nan, "top_p"),
    ("min_p", -0.1, "min_p"),
    ("min_p", 1.1, "min_p"),
    ("min_p", math.nan, "min_p"),
    ("top_logprobs", 101, "top_logprobs"),
    ("top_logprobs", 2**32 - 1, "top_logprobs"),
    ("stop", ["fine", ""], "stop[1]"),
    ("stop", ["x"] * 17, "stop"),
]


@pytest.mark.parametrize(("name", "value", "field"), SAMPLING)
def test_sampling_that_is_out_of_range_is_named(channel: grpc.Channel, name: str, value: Any, field: str) -> None:
    request = generate(**{name: value})
    refused(channel, Case("Generate", request, InvalidRequestError, f"sampling.{field}"))


@pytest.mark.parametrize("name", ["top_k", "max_tokens", "top_logprobs", "seed"])
def test_a_negative_number_does_not_even_leave_the_client(name: str) -> None:
    with pytest.raises(ValueError, match="-1"):
        generate(**{name: -1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 5e-324),
        ("temperature", 100.0),
        ("top_p", 5e-324),
        ("top_p", 1.0),
        ("top_k", 1),
        ("top_k", 2**31),
        ("top_k", 2**32 - 1),
        ("min_p", 5e-324),
        ("min_p", 1.0),
        ("top_logprobs", 100),
        ("seed", 2**64 - 1),
        ("stop", ["x" * 100_000] * 16),
        ("stop_token_ids", [2**32 - 1]),
        ("chunk_budget_bytes", 1),
        ("chunk_budget_bytes", 2**64 - 1),
        ("max_steps_ahead", 2**32 - 1),
        ("generation_id", LONG),
    ],
)
def test_the_ends_of_the_ranges_are_in_range(grpc_transport: GrpcTransport, name: str, value: Any) -> None:
    request = generate("resid_post.1", **{"temperature": 1.0, "seed": 1, name: value})
    assert len(record(grpc_transport, request).tokens) == 2


def test_no_limit_of_tokens_is_the_default_one(grpc_transport: GrpcTransport) -> None:
    assert len(record(grpc_transport, generate(max_tokens=0)).tokens) == 256


def test_the_highest_limit_of_tokens_is_none(grpc_transport: GrpcTransport, greedy: list[int]) -> None:
    request = generate(max_tokens=2**32 - 1, stop_token_ids=[greedy[2]])
    assert record(grpc_transport, request).token_ids() == greedy[: greedy.index(greedy[2]) + 1]


# ------------------------------------------------------------------------------------------------ other calls


@pytest.mark.parametrize(
    "trace_id", ["", "x", "g" * 32, "-" + "1" * 31, "1_" * 16, "0x" + "1" * 30, "1" * 31, " " + "1" * 31, LONG]
)
def test_what_is_no_trace_id(channel: grpc.Channel, trace_id: str) -> None:
    request = telemetry_pb2.GetTraceRequest(trace_id=trace_id)
    refused(channel, Case("GetTrace", request, InvalidRequestError, "trace_id", "32 hexadecimal digits"))


# ------------------------------------------------------------------------------------------------ long names


@pytest.mark.parametrize(
    "case",
    [
        Case("Generate", generate(model_id=LONG), ModelNotFoundError, "model_id"),
        Case("Generate", generate(model_id="ü" * 9000), ModelNotFoundError, "model_id"),
        Case("Capture", capture(spec(LONG)), UnknownSiteError, COMPONENT),
        Case("Capture", capture(spec(layer_name=LONG)), UnknownSiteError, LAYER_NAME),
        Case("Capture", capture(Hook("resid_post", 1, hook_id=LONG, positions=9)), InvalidRequestError, POSITIONS),
        Case("Capture", capture(Hook("resid_post", 1, hook_id=LONG, steps=9)), HookNeverFiredError, "hooks[0]"),
        Case("Capture", capture(*[Hook("resid_post", 1, hook_id=LONG)] * 2), InvalidRequestError, "hooks[1]"),
        Case("Generate", generate(hook_ids=[LONG]), UnknownIdError, "hook_ids[0]"),
        Case("AdvanceGeneration", pb.AdvanceGenerationRequest(generation_id=LONG), UnknownIdError, "generation_id"),
    ],
    ids=lambda case: f"{case.rpc} {case.field}",
)
def test_a_name_that_is_long_does_not_burst_the_status(channel: grpc.Channel, case: Case) -> None:
    """A status travels as a header, and headers above 8 KiB are refused by the peer."""
    refused(channel, case)


def test_stored_names_that_are_long_do_not_burst_the_status(
    channel: grpc.Channel, grpc_transport: GrpcTransport
) -> None:
    ids = [f"{LONG}{number}" for number in range(3)]
    hooks = [spec(hook_id=hook_id) for hook_id in ids]
    grpc_transport.unary(RPCS["RegisterHooks"], pb.RegisterHooksRequest(hooks=hooks))
    try:
        refused(channel, Case("Generate", generate(hook_ids=[LONG]), UnknownIdError, "hook_ids[0]"))
    finally:
        grpc_transport.unary(RPCS["ClearHooks"], pb.ClearHooksRequest(hook_ids=ids))


# ------------------------------------------------------------------------------------------------ bytes


GARBAGE = {
    "ones": b"\xff" * 16,
    "an endless number": b"\x80",
    "a text cut short": b"\x0a\x05abc",
    "a text that is none": b"\x7a\x02\xff\xfe\xff",
    "prose": b"Wouldn't you rather have this as JSON?",
    "an end of a group": b"\x0c",
}


@pytest.mark.parametrize("name", [name for name in RPCS if name != "PutTensor"])
def test_bytes_that_are_no_message_are_the_callers_mistake(channel: grpc.Channel, name: str) -> None:
    """gRPC by itself would answer UNKNOWN."""
    for garbage in GARBAGE.values():
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, RPCS[name], garbage)
        assert is_invalid(caught.value), (garbage, caught.value)
        error = status.from_rpc_error(caught.value)
        assert (type(error), error.field) == (InvalidRequestError, "request")
        assert RPCS[name].request.DESCRIPTOR.name in error.message
        assert violations(caught.value) == ["request"]


def test_an_upload_of_garbage_is_the_callers_mistake(channel: grpc.Channel) -> None:
    for parts in ([], *([garbage] for garbage in GARBAGE.values())):
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, RPCS["PutTensor"], parts)
        assert is_invalid(caught.value), (parts, caught.value)


def test_a_message_that_is_too_large(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, RPCS["Tokenize"], bytes(64 * 1024 * 1024 + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert type(status.from_rpc_error(caught.value)) is ResourceExhaustedError


@pytest.mark.parametrize("path", ["/neuroscope.v1.GenerationService/Degenerate", "/nowhere/Generate", "/", "//"])
def test_a_call_that_there_is_not(channel: grpc.Channel, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("header", ["", "00-zz-x-y", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 2000])
def test_a_trace_header_that_is_none_is_ignored(channel: grpc.Channel, header: str) -> None:
    raw = generate().SerializeToString()
    assert len(call(channel, RPCS["Generate"], raw, metadata=[("traceparent", header)])) == 4


# ------------------------------------------------------------------------------------------------ leaving


@pytest.mark.parametrize("rpc", ["Generate", "Capture"])
def test_a_reader_that_leaves_in_the_middle_ends_the_work(grpc_transport: GrpcTransport, rpc: str) -> None:
    """A prompt in chunks of 16 positions: what is not computed yet never will be."""
    ids = np.random.default_rng(2).integers(5, 500, 4000).tolist()
    fields: dict[str, Any] = {"chunk_budget_bytes": 16 * 4 * 128 * 4}
    request = (
        capture("resid_post", ids=ids, **fields) if rpc == "Capture" else generate("resid_post", ids=ids, **fields)
    )
    with tracing.traced() as (trace_id, _):
        events = grpc_transport.stream(RPCS[rpc], request, timeout_s=60)
        for _ in range(4):
            next(events)
        events.close()
    ended = tracing.ended_span(grpc_transport, trace_id, rpc)
    assert "cancelled" in ended.status.message
    chunks = [span for span in tracing.spans(grpc_transport, trace_id) if span.name == "prefill"]
    assert 2 <= len(chunks) < 4000 / 16 / 2


def test_readers_that_leave_at_once_and_all_together(grpc_transport: GrpcTransport) -> None:
    followers = [Follower(grpc_transport, generate("attention_pattern", max_tokens=3000)) for _ in range(8)]
    for follower in followers:
        follower.close()
    assert all(follower.recording.manifest is None for follower in followers)


# ------------------------------------------------------------------------------------------------ whatever else


def _numbers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1) | st.sampled_from([0, 1, 2, 2 ** (bits - 1), 2**bits - 1])


def _signed() -> st.SearchStrategy[int]:
    return st.integers(-6, 6) | st.sampled_from([-(2**31), 2**31 - 1])


NAMES = st.sampled_from(["resid_post", "attention_pattern", "key", "router_logits", "logits", "mlp", "blocks.1.hook_z"])
LAYER_NAMES = st.sampled_from(["layers.1", "transformer.h.-1", "transformer.wte", "lm_head", "blocks."]) | st.text()
SELECTORS = st.builds(
    site_pb2.Selector,
    heads=st.lists(_signed(), max_size=3),
    positions=st.none()
    | st.builds(
        site_pb2.PositionSelector,
        list=st.none() | st.builds(site_pb2.PositionList, positions=st.lists(_signed(), max_size=3)),
    )
    | st.builds(
        site_pb2.PositionSelector,
        range=st.builds(site_pb2.PositionRange, start=_signed(), stop=st.none() | _signed()),
    ),
    steps=st.none() | st.builds(site_pb2.StepSelector, start=_numbers(32), stop=st.none() | _numbers(32)),
    rows=st.lists(_numbers(32), max_size=2),
)
HOOKS = st.builds(
    pb.HookSpec,
    hook_id=st.text(max_size=3),
    site=st.none()
    | st.builds(
        site_pb2.Site,
        component=NAMES | st.text(),
        layer=st.none() | _signed(),
        layer_name=st.just("") | LAYER_NAMES,
        side=st.integers(-1, 4),
    ),
    select=st.none() | SELECTORS,
    dtype=st.integers(-1, 16),
)
CONTENTS = st.one_of(
    st.builds(pb.Prompt, text=st.text(), bos=st.integers(0, 3)),
    st.builds(pb.Prompt, token_ids=st.builds(pb.TokenIds, ids=st.lists(st.integers(0, 511), max_size=6))),
    st.builds(pb.Prompt, token_ids=st.builds(pb.TokenIds, ids=st.lists(_numbers(32), max_size=3))),
    st.builds(
        pb.Prompt,
        chat=st.builds(
            pb.Chat, messages=st.lists(st.builds(pb.ChatMessage, role=st.text(), content=st.text()), max_size=2)
        ),
    ),
)
FRACTIONS = st.none() | st.floats(0, 1) | st.floats()
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "model_id": st.sampled_from(["llama", "gpt2", "lama", "a,b"]) | st.text(),
    "prompts": st.lists(CONTENTS, max_size=3),
    "sampling": st.builds(
        pb.Sampling,
        max_tokens=st.integers(1, 3),
        temperature=FRACTIONS,
        top_p=FRACTIONS,
        top_k=_numbers(32),
        min_p=FRACTIONS,
        seed=st.none() | _numbers(64),
        stop=st.lists(st.text(), max_size=2),
        stop_token_ids=st.lists(_numbers(32), max_size=2),
        top_logprobs=_numbers(32),
    ),
    "hooks": st.lists(HOOKS, max_size=3),
    "hook_ids": st.lists(st.text(), max_size=2),
    "max_steps_ahead": st.sampled_from([0, 3, 2**32 - 1]),
    "generation_id": st.text(),
    "chunk_budget_bytes": _numbers(64),
    "resumable": st.booleans(),
}


@st.composite
def requests(draw: st.DrawFn) -> pb.GenerateRequest:
    """A good request, a few of whose fields are changed to anything that the contract can carry."""
    good: dict[str, Any] = {"prompts": [PROMPT], "sampling": pb.Sampling(max_tokens=2), "hooks": [spec()]}
    names = draw(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3, unique=True))
    return pb.GenerateRequest(**(good | {name: draw(CHANGES[name]) for name in names}))


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(request=requests())
def test_any_request_is_answered_or_is_the_callers_mistake(channel: grpc.Channel, request: pb.GenerateRequest) -> None:
    events, error = outcome(channel, request.SerializeToString())
    if error is None:
        assert events[-1].HasField("manifest")
    else:
        assert error.code() in MISTAKES, error
        assert status.error_info(error) is not None


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(cut=st.just(0) | st.integers(0, 90), place=st.integers(0, 90), junk=st.binary(max_size=2))
def test_any_bytes_are_answered_or_are_the_callers_mistake(
    channel: grpc.Channel, cut: int, place: int, junk: bytes
) -> None:
    """A good request, cut short and with a few bytes of another. Its first event will do: it may have become long."""
    request = generate(
        Hook("attention_pattern", 1, heads=[1], hook_id="a"), "resid_post.0", temperature=0.5, stop=["x"]
    )
    raw = bytearray(request.SerializeToString())
    raw[place : place + len(junk)] = junk
    events, error = outcome(channel, bytes(raw[: len(raw) - cut]), most_events=1)
    if error is None:
        assert events[0].HasField("started")
    else:
        assert error.code() in MISTAKES, error


def outcome(
    channel: grpc.Channel, raw: bytes, most_events: int | None = None
) -> tuple[list[pb.GenerateResponse], grpc.RpcError | None]:
    """The first events of a generation, and what it failed with."""
    answer = channel.unary_stream(RPCS["Generate"].path)(raw, timeout=30)
    events: list[pb.GenerateResponse] = []
    try:
        events += map(pb.GenerateResponse.FromString, itertools.islice(answer, most_events))
    except grpc.RpcError as error:
        return events, error
    finally:
        answer.cancel()
    return events, None
