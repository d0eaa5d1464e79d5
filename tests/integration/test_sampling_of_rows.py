"""Penalties, biases and several rows of a prompt: against mlx-lm, alone, in company, and after a step was lost.

python -m pytest tests/integration/test_sampling_of_rows.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_lm
import pytest
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from neuroscope.client import Client
from neuroscope.errors import InvalidRequestError
from neuroscope.wire.transport import GrpcTransport
from neuroscope_inference.engine.decode_batch import DecodeBatch
from neuroscope_inference.engine.memory import OutOfMemoryError
from neuroscope_inference.local import LocalTransport
from tests.support.compare import relative_error
from tests.support.following import Follower
from tests.support.plain_mlx import load_plain
from tests.support.recording import Recording, generate_request, prompt, record

TEXT = "When Alice and Bob went to the park"
PROMPTS = ([30, 31, 32, 30, 33], [40, 41, 42, 43, 44, 45, 46], [50, 51, 52, 50])
LENGTH = 24
BIAS = dict.fromkeys(range(100, 200, 3), 3.0)
STRONG: dict[str, Any] = {
    "presence_penalty": 0.75,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.3,
    "logit_bias": {17: 3.0, 99: -20.0},
}
DRAWN: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_tokens": LENGTH, "ignore_eos": True}


def generate(transport: Any, ids: Any, *hooks: Any, **fields: Any) -> Recording:
    rows = [prompt(row) for row in ids] if isinstance(ids[0], list) else prompt(ids)
    return record(transport, generate_request(rows, *hooks, **fields))


def texts(recording: Recording, rows: int) -> list[list[int]]:
    return [recording.token_ids(row) for row in range(rows)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5, "presence_context_size": 10**6}),
        ({"frequency_penalty": 0.75}, {"frequency_penalty": 0.75, "frequency_context_size": 10**6}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5, "repetition_context_size": 10**6}),
        (
            {"repetition_penalty": 1.5, "penalty_context_size": 3},
            {"repetition_penalty": 1.5, "repetition_context_size": 3},
        ),
        ({"logit_bias": BIAS}, {"logit_bias": BIAS}),
        (
            STRONG,
            STRONG | {f"{name}_context_size": 10**6 for name in ("presence", "frequency", "repetition")},
        ),
    ],
    ids=lambda value: "+".join(value),
)
@pytest.mark.parametrize("model_id", ["llama", "gpt2"])
def test_penalised_text_is_that_of_mlx_lm(
    grpc_transport: GrpcTransport,
    llama_dir: Path,
    gpt2_dir: Path,
    model_id: str,
    ours: dict[str, Any],
    theirs: dict[str, Any],
) -> None:
    model, tokenizer = load_plain({"llama": llama_dir, "gpt2": gpt2_dir}[model_id])
    ids = tokenizer.encode(TEXT)
    responses = mlx_lm.stream_generate(
        model,
        tokenizer,
        ids,
        max_tokens=LENGTH,
        sampler=make_sampler(temp=0.0),
        logits_processors=make_logits_processors(**theirs),
    )
    expected = [response.token for response in responses]
    assert generate(grpc_transport, ids, model_id=model_id, max_tokens=LENGTH, **ours).token_ids() == expected
    assert generate(grpc_transport, ids, model_id=model_id, max_tokens=LENGTH).token_ids() != expected


def test_penalties_may_leave_the_prompt_out(grpc_transport: GrpcTransport) -> None:
    """A penalty that forbids what was there forbids only what was generated."""
    heavy: dict[str, Any] = {"presence_penalty": 100, "max_tokens": LENGTH, "ignore_eos": True}
    everything = generate(grpc_transport, PROMPTS[0], **heavy).token_ids()
    assert len(set(everything)) == LENGTH
    assert not set(everything) & set(PROMPTS[0])
    likely = generate(grpc_transport, PROMPTS[0], max_tokens=1, top_logprobs=100).tokens[0].top_logprobs
    wanted = likely[-1].token_id  # in no way the likeliest, were it not for its bias
    prompts = [wanted, *PROMPTS[0]]
    bias = {"logit_bias": {wanted: 60.0}}
    assert generate(grpc_transport, prompts, **heavy, **bias).token_ids()[0] != wanted
    generated = generate(grpc_transport, prompts, penalize_generated_only=True, **heavy, **bias).token_ids()
    assert generated[0] == wanted
    assert wanted not in generated[1:]


def test_penalised_rows_are_as_if_each_were_alone(grpc_transport: GrpcTransport) -> None:
    """Rows with and without penalties, of different requests, in one batch."""
    several: list[dict[str, Any]] = [STRONG, {"presence_penalty": 1.9}, {}, {"logit_bias": {3: 9}}]
    requests = [
        generate_request(prompt(ids), **DRAWN, **fields)
        for ids, fields in zip([*PROMPTS, PROMPTS[0]], several, strict=True)
    ]
    alone = [record(grpc_transport, request).token_ids() for request in requests]
    followers = [Follower(grpc_transport, request) for request in requests]
    assert [follower.wait().token_ids() for follower in followers] == alone
    together = generate(grpc_transport, list(PROMPTS), **DRAWN, **STRONG)
    assert together.token_ids(0) == alone[0]


def test_a_paced_row_is_the_one_that_runs_ahead(grpc_transport: GrpcTransport) -> None:
    """In lockstep every token is known before the next step is launched; running ahead, it is not."""
    free = generate(grpc_transport, PROMPTS[0], **DRAWN, **STRONG).token_ids()
    paced = Client(transport=grpc_transport).generate(PROMPTS[0], max_steps_ahead=1, **DRAWN, **STRONG)
    assert [token.token_id for token in paced] == free


@pytest.fixture(scope="module")
def local(llama_dir: Path) -> Iterator[LocalTransport]:
    transport = LocalTransport(model=[str(llama_dir)])
    yield transport
    transport.close()


@pytest.mark.parametrize("fails_at", [1, 4])
def test_penalties_survive_a_step_that_was_lost(
    local: LocalTransport, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    undisturbed = generate(local, list(PROMPTS), **DRAWN, **STRONG)
    launch, counts = DecodeBatch.launch, [0]

    def failing(batch: DecodeBatch, rows: Any) -> None:
        launch(batch, rows)
        counts[0] += 1
        if counts[0] == fails_at:
            raise OutOfMemoryError("no memory")

    monkeypatch.setattr(DecodeBatch, "launch", failing)
    disturbed = generate(local, list(PROMPTS), **DRAWN, **STRONG)
    assert disturbed.manifest is not None
    assert disturbed.manifest.warnings
    assert texts(disturbed, 3) == texts(undisturbed, 3)


# ------------------------------------------------------------------------------------------ several rows of a prompt


@pytest.mark.parametrize("hooks", [(), ("resid_post",)], ids=["unobserved", "captured"])
def test_rows_of_a_prompt_draw_with_the_seeds_that_follow(grpc_transport: GrpcTransport, hooks: tuple[str]) -> None:
    """Row i of the first prompt is the request with the seed seed + i; later prompts likewise, at their own place."""
    several = generate(grpc_transport, [*PROMPTS[:2]], *hooks, rows_per_prompt=3, **DRAWN, **STRONG)
    assert several.started is not None
    assert [list(ids.ids) for ids in several.started.prompts] == [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3
    assert several.manifest is not None
    assert several.manifest.usage.prompt_tokens == len(PROMPTS[0]) + len(PROMPTS[1])
    for index in range(3):
        single = generate(grpc_transport, [*PROMPTS[:2]], *hooks, **DRAWN | STRONG | {"seed": 5 + index})
        for number in range(2):
            row = 3 * number + index
            assert several.token_ids(row) == single.token_ids(number), row
            for layer in range(4) if hooks else ():
                one, other = several.array("resid_post", layer, row=row), single.array("resid_post", layer, row=number)
                assert relative_error(one, other) < 1e-5
    assert len({tuple(row) for row in texts(several, 3)}) == 3


def test_a_seed_wraps_around(grpc_transport: GrpcTransport) -> None:
    fields = DRAWN | {"max_tokens": 8}
    several = generate(grpc_transport, PROMPTS[0], rows_per_prompt=2, **fields | {"seed": 2**64 - 1})
    assert several.token_ids(1) == generate(grpc_transport, PROMPTS[0], **fields | {"seed": 0}).token_ids()


def test_rows_of_a_prompt_read_it_once(local: LocalTransport) -> None:
    """A long prompt, four rows: a quarter of the positions that four prompts take."""
    ids = [10 + index % 200 for index in range(600)]
    fields: dict[str, Any] = {"max_tokens": 2, "temperature": 1.0, "seed": 1, "ignore_eos": True}
    once = generate(local, ids, rows_per_prompt=4, **fields)
    each = generate(local, [ids] * 4, **fields)
    assert once.manifest is not None
    assert each.manifest is not None
    assert (once.manifest.usage.prompt_tokens, each.manifest.usage.prompt_tokens) == (600, 2400)


def test_a_kept_generation_of_several_rows_is_run_again_the_same(local: LocalTransport) -> None:
    """Bias and rows are part of the request that is kept."""
    fields: dict[str, Any] = DRAWN | STRONG | {"rows_per_prompt": 2, "resumable": True, "generation_id": "several"}
    request = generate_request(prompt(PROMPTS[0]), "resid_post.1", **fields)
    first = record(local, request)
    assert texts(record(local, request), 2) == texts(first, 2)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rows_per_prompt": 200}, "sampling.rows_per_prompt"),
        ({"logit_bias": {512: 1.0}}, "sampling.logit_bias[512]"),
        ({"frequency_penalty": 101.0}, "sampling.frequency_penalty"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_name(
    grpc_transport: GrpcTransport, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        record(grpc_transport, generate_request([prompt(PROMPTS[0]), prompt(PROMPTS[1])], **fields))
    assert caught.value.field == field


def test_the_client_has_them_all(grpc_transport: GrpcTransport) -> None:
    client = Client(transport=grpc_transport)
    generation = client.generate(PROMPTS[0], n=2, **DRAWN, **STRONG).wait()
    expected = generate(grpc_transport, PROMPTS[0], rows_per_prompt=2, **DRAWN, **STRONG)
    assert generation.texts == [expected.text(0), expected.text(1)]
    assert generation.cache.token_ids == [PROMPTS[0] + row for row in texts(expected, 2)]
    with pytest.raises(InvalidRequestError, match="n is at least 1"):
        client.generate(PROMPTS[0], n=0)
