"""Text over gRPC: seeds, greedy decoding, log-probabilities, ends, prompts, lockstep, company and cancellation.

python -m pytest tests/integration/test_generation.py
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_lm
import numpy as np
import pytest
from mlx_lm.sample_utils import make_sampler

from neuroscope.errors import IdTakenError, InvalidRequestError, UnknownIdError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from tests.support import numpy_forward, tracing
from tests.support.byte_bpe import BOS_ID
from tests.support.following import Follower
from tests.support.plain_mlx import load_plain
from tests.support.random_models import make_model
from tests.support.recording import Recording, generate_request, prompt, record
from tests.support.services import Service

TEXT = "When Alice and Bob went to the park"
LONG = 24
SAMPLED: dict[str, Any] = {"temperature": 1.0, "seed": 1234, "max_tokens": LONG, "ignore_eos": True}
CONTEXT = 32


def generate(transport: GrpcTransport, content: Any = TEXT, *hooks: Any, **fields: Any) -> Recording:
    rows = [prompt(row) for row in content] if isinstance(content, list) and isinstance(content[0], str) else None
    return record(transport, generate_request(rows or prompt(content), *hooks, **fields))


@pytest.fixture(scope="module")
def greedy(grpc_transport: GrpcTransport) -> Recording:
    """24 tokens of llama that nothing ends."""
    return generate(grpc_transport, max_tokens=LONG, ignore_eos=True)


# ------------------------------------------------------------------------------------------------ what is generated


@pytest.mark.parametrize("model_id", ["llama", "gpt2", "neuroscope-tiny"])
def test_greedy_text_is_that_of_mlx_lm(
    grpc_transport: GrpcTransport, llama_dir: Path, gpt2_dir: Path, model_id: str, request: pytest.FixtureRequest
) -> None:
    folders = {"llama": llama_dir, "gpt2": gpt2_dir}
    folder = folders[model_id] if model_id in folders else request.getfixturevalue("bundled_model_dir")
    model, tokenizer = load_plain(folder)
    ids = tokenizer.encode(TEXT)
    responses = list(mlx_lm.stream_generate(model, tokenizer, ids, max_tokens=LONG, sampler=make_sampler(temp=0.0)))
    recording = generate(grpc_transport, ids, model_id=model_id, max_tokens=LONG)
    assert recording.token_ids() == [response.token for response in responses]
    assert recording.text() == "".join(response.text for response in responses)
    reason = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}[str(responses[-1].finish_reason)]
    assert recording.finish_reason() == reason


def text_of(transport: GrpcTransport, ids: list[int]) -> str:
    """The text of generated tokens; like mlx-lm, a generation begins without the space of its first word."""
    response: Any = transport.unary(RPCS["Detokenize"], pb.DetokenizeRequest(token_ids=ids))
    return response.text.removeprefix(" ")


def test_the_text_is_that_of_the_tokens(grpc_transport: GrpcTransport, greedy: Recording) -> None:
    assert greedy.text() == text_of(grpc_transport, greedy.token_ids())


@pytest.mark.parametrize("model_id", ["llama", "gpt2"])
def test_log_probabilities_are_those_of_the_numpy_forward_pass(
    grpc_transport: GrpcTransport, llama_dir: Path, gpt2_dir: Path, model_id: str
) -> None:
    recording = generate(grpc_transport, model_id=model_id, top_logprobs=5, **SAMPLED)
    ids, drawn = recording.prompt_ids(), recording.token_ids()
    folder = {"llama": llama_dir, "gpt2": gpt2_dir}[model_id]
    logits = numpy_forward.forward(folder, [*ids, *drawn[:-1]])["logits", None][0, len(ids) - 1 :]
    logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logprobs -= logits.max(-1, keepdims=True)
    for token, expected in zip(recording.tokens, logprobs, strict=True):
        assert token.logprob == pytest.approx(expected[token.token_id], abs=2e-5)
        assert len(token.top_logprobs) == 5
        best = np.sort(expected)[::-1][:5]
        assert [top.logprob for top in token.top_logprobs] == pytest.approx(best, abs=2e-5)
        for top in token.top_logprobs:
            assert top.logprob == pytest.approx(expected[top.token_id], abs=2e-5)


def test_no_alternatives_come_unasked(greedy: Recording) -> None:
    assert not any(token.top_logprobs for token in greedy.tokens)


# ------------------------------------------------------------------------------------------------ seeds


def test_one_seed_gives_one_text(grpc_transport: GrpcTransport) -> None:
    first = generate(grpc_transport, **SAMPLED)
    assert first.started is not None
    assert first.started.seed == SAMPLED["seed"]
    assert generate(grpc_transport, **SAMPLED).token_ids() == first.token_ids()
    assert generate(grpc_transport, **{**SAMPLED, "seed": 1235}).token_ids() != first.token_ids()


def test_a_seed_that_the_server_drew_repeats_its_text(grpc_transport: GrpcTransport) -> None:
    fields: dict[str, Any] = {name: value for name, value in SAMPLED.items() if name != "seed"}
    first, second = generate(grpc_transport, **fields), generate(grpc_transport, **fields)
    assert first.started is not None
    assert first.token_ids() != second.token_ids()
    assert generate(grpc_transport, **fields, seed=first.started.seed).token_ids() == first.token_ids()


def test_a_seed_gives_its_text_in_any_company(grpc_transport: GrpcTransport) -> None:
    """Beside requests of the same and of another model, with other hooks and other lengths."""
    alone = generate(grpc_transport, **SAMPLED)
    reseeded: dict[str, Any] = {**SAMPLED, "seed": 7}
    requests = [
        generate_request(prompt(TEXT), **SAMPLED),
        generate_request(prompt(TEXT), "resid_post", "attention_pattern", **SAMPLED),
        generate_request(prompt("The capital of France is"), "mlp_neurons", **reseeded),
        generate_request([prompt(TEXT), prompt("Once")], Hook("logits", steps=slice(2, 4)), **SAMPLED),
        generate_request(prompt(TEXT), "resid_post", model_id="gpt2", **SAMPLED),
    ]
    followers = [Follower(grpc_transport, request) for request in requests]
    recordings = [follower.wait() for follower in followers]
    for number in (0, 1, 3):
        assert recordings[number].token_ids(0) == alone.token_ids(), number
    assert recordings[2].token_ids() != alone.token_ids()
    assert recordings[4].token_ids() == generate(grpc_transport, model_id="gpt2", **SAMPLED).token_ids()


def test_hooks_do_not_change_the_text(grpc_transport: GrpcTransport, greedy: Recording) -> None:
    hooks = ("resid_post", "attention_pattern", "q_proj")
    hooked = generate(grpc_transport, TEXT, *hooks, max_tokens=LONG, ignore_eos=True)
    assert [(t.token_id, t.logprob, t.text) for t in hooked.tokens] == [
        (t.token_id, t.logprob, t.text) for t in greedy.tokens
    ]


# ------------------------------------------------------------------------------------------------ ends


def test_max_tokens_ends_with_length(greedy: Recording) -> None:
    assert len(greedy.tokens) == LONG
    assert greedy.finish_reason() == pb.FINISH_REASON_LENGTH
    assert not any(token.finish_reason for token in greedy.tokens[:-1])


@pytest.mark.parametrize("count", [1, 2])
def test_short_generations(grpc_transport: GrpcTransport, greedy: Recording, count: int) -> None:
    recording = generate(grpc_transport, TEXT, "resid_post.1", max_tokens=count, ignore_eos=True)
    assert recording.token_ids() == greedy.token_ids()[:count]
    assert [piece.step for piece in recording.of("resid_post", 1)] == list(range(count))


@pytest.mark.parametrize(("start", "length"), [(0, 1), (3, 1), (5, 4), (9, 12), (2, 25)])
def test_a_stop_text_ends_the_output_before_it(
    grpc_transport: GrpcTransport, greedy: Recording, start: int, length: int
) -> None:
    """Within a token, at its edges and across several; what the whole text says is compared with."""
    whole = greedy.text()
    stop = whole[start : start + length]
    recording = generate(grpc_transport, max_tokens=LONG, ignore_eos=True, stop=["never met", stop])
    assert recording.text() == whole[: whole.index(stop)]
    assert recording.finish_reason() == pb.FINISH_REASON_STOP
    assert len(recording.tokens) <= LONG
    texts = [token.text for token in greedy.tokens]
    needed = next(n for n in range(1, LONG + 1) if stop in "".join(texts[:n]))
    assert len(recording.tokens) == needed, "it went on after the stop text"


def test_the_beginning_of_a_stop_text_comes_out_at_the_end(grpc_transport: GrpcTransport, greedy: Recording) -> None:
    stop = greedy.text()[-3:] + "and what never follows"
    recording = generate(grpc_transport, max_tokens=LONG, ignore_eos=True, stop=[stop])
    assert recording.text() == greedy.text()
    assert recording.finish_reason() == pb.FINISH_REASON_LENGTH


def test_a_stop_token_ends_the_generation_and_is_no_text(grpc_transport: GrpcTransport, greedy: Recording) -> None:
    stop_id = greedy.token_ids()[7]
    recording = generate(grpc_transport, max_tokens=LONG, ignore_eos=True, stop_token_ids=[stop_id])
    count = greedy.token_ids().index(stop_id)
    assert recording.token_ids() == greedy.token_ids()[: count + 1]
    assert recording.finish_reason() == pb.FINISH_REASON_STOP
    assert recording.text() == text_of(grpc_transport, greedy.token_ids()[:count])


@pytest.fixture(scope="module")
def early_ending(
    grpc_transport: GrpcTransport, greedy: Recording, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The same llama, whose end-of-sequence token is the sixth that it says."""
    folder = make_model("llama", tmp_path_factory.mktemp("eos") / "ends", eos_token_id=greedy.token_ids()[5])
    yield from loaded(grpc_transport, folder)


def test_the_end_of_sequence_ends_the_generation(
    grpc_transport: GrpcTransport, greedy: Recording, early_ending: str
) -> None:
    count = greedy.token_ids().index(greedy.token_ids()[5])
    ended = generate(grpc_transport, model_id=early_ending, max_tokens=LONG)
    assert ended.token_ids() == greedy.token_ids()[: count + 1]
    assert ended.finish_reason() == pb.FINISH_REASON_STOP
    ignored = generate(grpc_transport, model_id=early_ending, max_tokens=LONG, ignore_eos=True)
    assert ignored.token_ids() == greedy.token_ids()


def test_rows_end_each_by_itself(grpc_transport: GrpcTransport, greedy: Recording, early_ending: str) -> None:
    recording = generate(grpc_transport, [TEXT, "The capital of France is"], model_id=early_ending, max_tokens=9)
    assert recording.finish_reason(0) == pb.FINISH_REASON_STOP
    assert recording.finish_reason(1) == pb.FINISH_REASON_LENGTH
    assert len(recording.token_ids(0)) < len(recording.token_ids(1)) == 9


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def short_context(
    request: pytest.FixtureRequest, grpc_transport: GrpcTransport, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A model with room for 32 tokens."""
    names = {"llama": ["max_position_embeddings"], "gpt2": ["n_positions", "n_ctx"]}[request.param]
    folder = tmp_path_factory.mktemp("short") / f"short-{request.param}"
    yield from loaded(grpc_transport, make_model(request.param, folder, **dict.fromkeys(names, CONTEXT)))


@pytest.mark.parametrize("free", [0, 1, 5])
def test_the_end_of_the_context_ends_with_length(grpc_transport: GrpcTransport, short_context: str, free: int) -> None:
    """The last token needs no room: it is not read."""
    ids = [BOS_ID, *range(10, 10 + CONTEXT - 1 - free)]
    recording = generate(grpc_transport, ids, "resid_post.0", model_id=short_context, max_tokens=100, ignore_eos=True)
    assert len(recording.tokens) == free + 1
    assert recording.finish_reason() == pb.FINISH_REASON_LENGTH
    assert recording.array("resid_post", 0).shape[1] == CONTEXT


# ------------------------------------------------------------------------------------------------ prompts


@pytest.mark.parametrize(
    ("model_id", "policy", "begins"),
    [
        ("llama", pb.BOS_POLICY_UNSPECIFIED, True),
        ("llama", pb.BOS_POLICY_ADD, True),
        ("llama", pb.BOS_POLICY_OMIT, False),
        ("gpt2", pb.BOS_POLICY_UNSPECIFIED, False),
        ("gpt2", pb.BOS_POLICY_ADD, True),
        ("gpt2", pb.BOS_POLICY_OMIT, False),
    ],
)
def test_beginnings_of_texts(
    grpc_transport: GrpcTransport, gpt2_dir: Path, model_id: str, policy: pb.BosPolicy.ValueType, begins: bool
) -> None:
    plain = load_plain(gpt2_dir)[1].encode(TEXT)  # both models have the same vocabulary; gpt2's adds nothing
    recording = record(grpc_transport, generate_request(prompt(TEXT, policy), model_id=model_id, max_tokens=1))
    assert recording.prompt_ids() == ([BOS_ID, *plain] if begins else plain)
    assert recording.started is not None
    assert not recording.started.warnings


def test_token_ids_are_taken_as_they_are(grpc_transport: GrpcTransport) -> None:
    for ids in ([5, 6, 7], [BOS_ID, 5], [BOS_ID], [511]):
        assert generate(grpc_transport, ids, max_tokens=1).prompt_ids() == ids


def test_a_bos_can_be_put_in_front_of_token_ids(grpc_transport: GrpcTransport) -> None:
    for ids in ([5, 6], [BOS_ID, 5, 6]):
        request = generate_request(prompt(ids, pb.BOS_POLICY_ADD), max_tokens=1)
        assert record(grpc_transport, request).prompt_ids() == [BOS_ID, 5, 6]


def test_a_doubled_bos_is_warned_of(grpc_transport: GrpcTransport) -> None:
    rows = [prompt("fine"), prompt("<|bos|>doubled"), prompt([BOS_ID, BOS_ID, 7])]
    recording = record(grpc_transport, generate_request(rows, max_tokens=1))
    assert recording.started is not None
    assert len(recording.started.warnings) == 2
    for row, warning in zip((1, 2), recording.started.warnings, strict=True):
        assert f"prompts[{row}]" in warning
        assert "beginning-of-sequence" in warning
    response: Any = grpc_transport.unary(RPCS["Tokenize"], pb.TokenizeRequest(prompt=prompt("<|bos|>doubled")))
    assert list(response.token_ids[:2]) == [BOS_ID, BOS_ID]
    assert len(response.warnings) == 1


def test_a_conversation_goes_through_the_template(grpc_transport: GrpcTransport, llama_dir: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is the key?"}]
    tokenizer = load_plain(llama_dir)[1]
    for omit in (False, True):
        chat = prompt(messages)
        chat.chat.omit_generation_prompt = omit
        recording = record(grpc_transport, generate_request(chat, max_tokens=1))
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=not omit)
        assert recording.prompt_ids() == list(expected)
        assert recording.started is not None
        assert not recording.started.warnings
    without = record(grpc_transport, generate_request(prompt(messages, pb.BOS_POLICY_OMIT), max_tokens=1))
    assert without.prompt_ids()[0] != BOS_ID


# ------------------------------------------------------------------------------------------------ what a stream holds


def test_a_stream_without_hooks_has_no_plan(greedy: Recording) -> None:
    assert greedy.plan is None
    assert greedy.frames == 0
    assert greedy.manifest is not None
    assert greedy.manifest.prefill_ms > 0
    assert greedy.manifest.decode_ms > 0


def test_registered_hooks_are_named_by_id(grpc_transport: GrpcTransport) -> None:
    request = generate_request(prompt(TEXT), "resid_post.0", max_tokens=2, hook_ids=["stored"])
    stored = Hook("resid_post", 1, hook_id="stored").to_message()
    grpc_transport.unary(RPCS["RegisterHooks"], pb.RegisterHooksRequest(hooks=[stored]))
    try:
        recording = record(grpc_transport, request)
        assert {(piece.spec.hook_id, piece.spec.site.layer) for piece in recording.pieces} == {
            ("resid_post.0", 0),
            ("stored", 1),
        }
    finally:
        grpc_transport.unary(RPCS["ClearHooks"], pb.ClearHooksRequest(hook_ids=["stored"]))
    with pytest.raises(UnknownIdError):
        record(grpc_transport, request)


# ------------------------------------------------------------------------------------------------ lockstep


def forward_passes(transport: GrpcTransport, trace_id: str) -> int:
    """Forward passes that the engine has begun, run-ahead included: each takes its captures once."""
    return sum(span.name == "capture" for span in tracing.spans(transport, trace_id))


def advance(transport: GrpcTransport, generation_id: str, steps: int = 1) -> int:
    response: Any = transport.unary(
        RPCS["AdvanceGeneration"], pb.AdvanceGenerationRequest(generation_id=generation_id, steps=steps)
    )
    return response.granted_steps


@pytest.mark.parametrize("rows", [1, 3])
def test_lockstep_computes_exactly_what_it_has_credit_for(grpc_transport: GrpcTransport, rows: int) -> None:
    """Not one forward pass more, in any row."""
    request = generate_request(
        [prompt(TEXT)] * rows, max_tokens=6, ignore_eos=True, max_steps_ahead=1, generation_id=f"lockstep {rows}"
    )
    with tracing.traced() as (trace_id, _):
        follower = Follower(grpc_transport, request)
        for step in range(6):
            tokens = [follower.next_token() for _ in range(rows)]
            assert [(token.row, token.step) for token in tokens if token] == [(row, step) for row in range(rows)]
            if step < 5:
                assert follower.is_quiet()
                assert forward_passes(grpc_transport, trace_id) == rows * (step + 1)
                assert advance(grpc_transport, f"lockstep {rows}") == step + 2
        recording = follower.wait()
    assert [recording.finish_reason(row) for row in range(rows)] == [pb.FINISH_REASON_LENGTH] * rows
    assert forward_passes(grpc_transport, trace_id) == rows * 6


def test_credit_for_several_steps_is_used_and_no_more(grpc_transport: GrpcTransport, greedy: Recording) -> None:
    request = generate_request(prompt(TEXT), max_tokens=LONG, ignore_eos=True, max_steps_ahead=2, generation_id="ahead")
    with tracing.traced() as (trace_id, _):
        follower = Follower(grpc_transport, request)
        seen = [follower.next_token() for _ in range(2)]
        assert follower.is_quiet()
        assert forward_passes(grpc_transport, trace_id) == 2
        assert advance(grpc_transport, "ahead", 5) == 7
        seen += [follower.next_token() for _ in range(5)]
        assert follower.is_quiet()
        assert forward_passes(grpc_transport, trace_id) == 7
        advance(grpc_transport, "ahead", 1000)
    assert follower.wait().token_ids() == greedy.token_ids()
    assert [token.step for token in seen if token] == list(range(7))


def test_a_row_that_ends_early_does_not_hold_up_the_others(grpc_transport: GrpcTransport, early_ending: str) -> None:
    """Lockstep over rows of different length: the last step's credit is enough to end the stream."""
    rows = [prompt("The capital of France is"), prompt(TEXT)]
    request = generate_request(rows, model_id=early_ending, max_tokens=8, max_steps_ahead=1, generation_id="uneven")
    follower = Follower(grpc_transport, request)
    for step in range(8):
        token = follower.next_token()
        while token is not None and not (token.row == 0 and token.step == step):
            token = follower.next_token()
        assert token is not None
        if step < 7:
            advance(grpc_transport, "uneven")
    recording = follower.wait(10)
    assert len(recording.token_ids(0)) == 8 > len(recording.token_ids(1))


def test_advancing_what_does_not_run_is_an_error(grpc_transport: GrpcTransport) -> None:
    with pytest.raises(UnknownIdError) as caught:
        advance(grpc_transport, "nobody")
    assert caught.value.field == "generation_id"
    request = generate_request(prompt(TEXT), max_tokens=4, max_steps_ahead=1, ignore_eos=True, generation_id="somebody")
    follower = Follower(grpc_transport, request)
    assert follower.next_token() is not None
    with pytest.raises(UnknownIdError) as caught:
        advance(grpc_transport, "somebodi")
    assert caught.value.valid == ("somebody",)
    with pytest.raises(InvalidRequestError) as invalid:
        advance(grpc_transport, "somebody", 0)
    assert invalid.value.field == "steps"
    with pytest.raises(IdTakenError):
        record(grpc_transport, request)
    advance(grpc_transport, "somebody", 10)
    follower.wait()
    with pytest.raises(UnknownIdError):
        advance(grpc_transport, "somebody")
    assert advance_after_restart(grpc_transport, request) == 2


def advance_after_restart(transport: GrpcTransport, request: pb.GenerateRequest) -> int:
    """The id of a generation that has ended is free; ends the new one too."""
    follower = Follower(transport, request)
    assert follower.next_token() is not None
    granted = advance(transport, request.generation_id)
    advance(transport, request.generation_id, 10)
    follower.wait()
    return granted


def test_a_free_generation_takes_no_credit(grpc_transport: GrpcTransport) -> None:
    request = generate_request(prompt(TEXT), max_tokens=2000, ignore_eos=True, generation_id="free")
    follower = Follower(grpc_transport, request)
    assert follower.next_token() is not None
    with pytest.raises(InvalidRequestError, match="max_steps_ahead"):
        advance(grpc_transport, "free")
    follower.close()


def test_two_generations_of_one_id_at_once_are_one_too_many(grpc_transport: GrpcTransport) -> None:
    """However close together they come: one runs, the others are refused, and the id is free afterwards."""
    request = generate_request(prompt(TEXT), max_tokens=3, max_steps_ahead=1, ignore_eos=True, generation_id="twins")
    followers = [Follower(grpc_transport, request) for _ in range(6)]
    running = [follower for follower in followers if follower.next_token() is not None]
    assert len(running) == 1
    advance(grpc_transport, "twins", 10)
    assert len(running[0].wait().tokens) == 3
    for follower in followers:
        if follower not in running:
            with pytest.raises(IdTakenError):
                follower.wait()


# ------------------------------------------------------------------------------------------------ company


def test_a_short_generation_ends_among_long_ones(grpc_transport: GrpcTransport) -> None:
    long = [
        Follower(grpc_transport, generate_request(prompt(TEXT), "resid_post", max_tokens=300, ignore_eos=True))
        for _ in range(2)
    ]
    for follower in long:
        assert follower.next_token() is not None
    short = generate(grpc_transport, max_tokens=4, ignore_eos=True)
    counts = [len(follower.recording.tokens) for follower in long]
    assert len(short.tokens) == 4
    assert all(0 < count < 200 for count in counts), counts
    for follower in long:
        assert len(follower.wait().tokens) == 300


def test_a_long_prompt_does_not_hold_up_a_generation(grpc_transport: GrpcTransport) -> None:
    """Tokens of one request come between the prefill chunks of another."""
    ids = np.random.default_rng(1).integers(5, 500, 300).tolist()
    request = generate_request(prompt(ids), "resid_post", max_tokens=1, chunk_budget_bytes=50_000, ignore_eos=True)
    with tracing.traced() as (trace_id, _):
        slow = Follower(grpc_transport, request)
        generate(grpc_transport, max_tokens=12, ignore_eos=True)
        slow.wait()
        events = sorted(
            (span.start_time_unix_nano, int(tracing.attributes(span)["neuroscope.tokens"]), span.name)
            for span in tracing.spans(grpc_transport, trace_id)
            if span.name in ("prefill", "decode")
        )
    names = [name for _, _, name in events]
    first, last = names.index("prefill"), len(names) - 1 - names[::-1].index("prefill")
    assert "decode" in names[first:last]


# ------------------------------------------------------------------------------------------------ cancellation


def test_cancelling_reaches_the_engine_within_a_step(grpc_transport: GrpcTransport) -> None:
    request = generate_request(prompt(TEXT), "resid_post", max_tokens=4000, ignore_eos=True)
    with tracing.traced() as (trace_id, _):
        follower = Follower(grpc_transport, request)
        for _ in range(3):
            assert follower.next_token() is not None
        follower.close()
    call = tracing.ended_span(grpc_transport, trace_id, "Generate")
    time.sleep(0.3)
    late = [
        span
        for span in tracing.spans(grpc_transport, trace_id)
        if span.name == "decode" and span.start_time_unix_nano > call.end_time_unix_nano
    ]
    assert len(late) <= 1
    assert "cancelled" in call.status.message


def test_a_client_that_goes_away_harms_no_other(inference: Service, grpc_transport: GrpcTransport) -> None:
    expected = generate(grpc_transport, **SAMPLED)
    rude = GrpcTransport(inference.target)
    doomed = [
        Follower(rude, generate_request(prompt(TEXT), "attention_pattern", max_tokens=4000, ignore_eos=True))
        for _ in range(3)
    ]
    for follower in doomed:
        assert follower.next_token() is not None
    polite = Follower(grpc_transport, generate_request(prompt(TEXT), **SAMPLED))
    rude.close()
    assert polite.wait().token_ids() == expected.token_ids()
    assert generate(grpc_transport, **SAMPLED).token_ids() == expected.token_ids()


def loaded(transport: GrpcTransport, folder: Path) -> Iterator[str]:
    """A model of the shared service for as long as a fixture lives; its id."""
    for _ in transport.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=str(folder))):
        pass
    yield folder.name
    transport.unary(RPCS["UnloadModel"], pb.UnloadModelRequest(model_id=folder.name))
