"""Thousands of spoilt requests to every call: each is answered or blamed on its caller, and the service stays as it was.

python -m pytest tests/integration/test_fuzzed_requests.py --fuzz-cases 5000
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from neuroscope import Client, status
from neuroscope.errors import MLXIntegrationError, StreamingError, UnknownIdError, error_classes
from neuroscope.rpc import RPCS, Rpc
from neuroscope.transport import GrpcTransport
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2, tensor_pb2
from tests.support import tracing
from tests.support.following import Follower
from tests.support.fuzzing.mutations import Mutator
from tests.support.fuzzing.sensible import Sensible
from tests.support.recording import generate_request, prompt, record
from tests.support.services import Service, inference_service

SEED = 20_261
DEADLINE_S = 20.0
MOST_EVENTS = 16
"""Read of a stream: spoilt requests may ask for thousands of tokens, or wait for credit that nobody gives."""
TENDED_EVERY = 50
GROWTH_BAR_BYTES = 20_000_000
MODEL, SPARE = "neuroscope-tiny", "spare"
IDS = [1, 50, 60, 70]
ALLOWED = {"OK", "DATA_LOSS"} | {
    cls.grpc_status.name
    for cls in (*error_classes().values(), StreamingError)
    if cls.http_status < 500 and cls.grpc_status not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
}
"""Every status that a caller's mistake may have. DATA_LOSS: the checksum of a tensor that was spoilt."""


def _health() -> Iterator[Rpc]:
    for service in health_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            request = message_factory.GetMessageClass(method.input_type)
            response = message_factory.GetMessageClass(method.output_type)
            yield Rpc(service.full_name, method.name, request, response, method.client_streaming, method.server_streaming)


CALLS: list[Rpc] = [*RPCS.values(), *_health()]


@dataclass(frozen=True)
class Case:
    """One request, spoilt or not."""

    number: int
    rpc: Rpc
    how: str
    """`good`, `field` or `byte`."""
    parts: list[bytes]

    def __str__(self) -> str:
        shown = [part if len(part) < 400 else part[:400] + b"..." for part in self.parts]
        return f"case {self.number} of seed {SEED}: {self.rpc.method} by {self.how}: {shown}"


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    code: str
    detail: str = ""
    has_reason: bool = True
    seconds: float = 0.0


class Cases:
    """The requests, one by one; the number of one and the examples determine it."""

    def __init__(self, examples: dict[str, Any]) -> None:
        self.sensible = Sensible(examples)

    def case(self, number: int) -> Case:
        """Every tenth or so is good, and the calls take turns."""
        choice = random.Random(f"{SEED} {number}")
        rpc = CALLS[number % len(CALLS)]
        how = choice.choice(["good", *["field"] * 6, *["byte"] * 3])
        return Case(number, rpc, how, self._spoilt(rpc, how, choice))

    def _good(self, rpc: Rpc, choice: random.Random) -> list[bytes]:
        if rpc.streams_requests:
            return [message.SerializeToString() for message in choice.choice(self.sensible.examples[rpc.method])]
        return [self.sensible.message(rpc.request.DESCRIPTOR, choice).SerializeToString()]

    def _spoilt(self, rpc: Rpc, how: str, choice: random.Random) -> list[bytes]:
        parts = self._good(rpc, choice)
        if how == "good":
            return parts
        mutator, index = Mutator(choice), choice.randrange(len(parts))
        if rpc.streams_requests and choice.random() < 0.3:  # in another order, doubled, or not all of them
            return choice.choices(parts, k=choice.randrange(5))
        if how == "field":
            parts[index] = mutator.by_field(parts[index], rpc.request.DESCRIPTOR)
        else:
            parts[index] = mutator.by_byte(parts[index], choice.choice(self._good(choice.choice(CALLS), choice)))
        return parts


@dataclass
class Fuzzed:
    """A service that is sent cases, and what must be there for good requests to be good."""

    service: Service
    folder: Path
    transport: GrpcTransport
    channel: grpc.Channel
    outcomes: list[tuple[Case, Outcome]] = field(default_factory=list)
    resident_bytes: dict[int, int] = field(default_factory=dict)
    """Once so many cases have been sent."""
    _running: Follower | None = None

    def __post_init__(self) -> None:
        self.client = Client(transport=self.transport)
        self.tensor_id = self.client.put_tensor(np.ones(128, np.float32))
        with tracing.traced() as (trace_id, _):
            record(self.transport, generate_request(prompt(IDS), max_tokens=1))
        self.trace_id = trace_id
        self.tend()
        self.cases = Cases(self.examples())

    def run(self, first: int, last: int) -> None:
        """Sends the cases of these numbers, puts back what they took, and notes the memory."""
        for number in range(first, last):
            if number % TENDED_EVERY == 0:
                self.tend()
            case = self.cases.case(number)
            self.outcomes.append((case, self.send(case)))
        self.tend()
        self.resident_bytes[last] = self.service.resident_bytes()

    def send(self, case: Case) -> Outcome:
        """The bytes as they are, through a stub that knows no messages."""
        rpc = case.rpc
        kind = f"{'stream' if rpc.streams_requests else 'unary'}_{'stream' if rpc.streams_responses else 'unary'}"
        make: Callable[..., Any] = getattr(self.channel, kind)
        begin = time.perf_counter()
        call: Any = None
        try:
            requests: Any = iter(case.parts) if rpc.streams_requests else case.parts[0]
            call = make(rpc.path)(requests, timeout=DEADLINE_S)
            answers = itertools.islice(call, most_events(case)) if rpc.streams_responses else [call]
            for answer in answers:
                rpc.response.FromString(answer)
        except grpc.RpcError as error:
            reason = status.error_info(error) is not None
            return Outcome(error.code().name, str(error.details()), reason, time.perf_counter() - begin)
        finally:
            if rpc.streams_responses and call is not None:
                call.cancel()
        return Outcome("OK", seconds=time.perf_counter() - begin)

    def answer(self) -> tuple[list[int], dict[Any, Any]]:
        """What the service says when it is asked properly: tokens, and checksums of what was captured."""
        request = generate_request(
            prompt(IDS), "resid_post", "attention_pattern", model_id=MODEL, max_tokens=6, ignore_eos=True
        )
        recording = record(self.transport, request, timeout_s=DEADLINE_S)
        return recording.token_ids(), recording.checksums()

    def tend(self) -> None:
        """Makes the service again what the good requests take it for."""
        loaded = {model.model_id for model in self.client.models()}
        for model_id in loaded - {MODEL, SPARE}:
            self.client.unload_model(model_id)
        for model_id in {MODEL, SPARE} - loaded:
            self.client.load_model(str(self.folder), model_id=model_id)
        self.client.clear_hooks()
        self.client.register_hooks([pb.HookSpec(hook_id="stored", site=site_pb2.Site(component="resid_post", layer=1))])
        self._run_generation()
        self._keep_captures()
        self.tensor_id = self.client.put_tensor(np.ones(128, np.float32))

    def close(self) -> None:
        """Leaves the running generation."""
        if self._running is not None:
            self._running.close()

    def _run_generation(self) -> None:
        """One that `Steer` and `AdvanceGeneration` name."""
        self.close()
        request = generate_request(
            prompt(IDS), max_tokens=400, ignore_eos=True, max_steps_ahead=1, generation_id="running", model_id=MODEL
        )
        while True:
            self._running = Follower(self.transport, request)
            if self._running.next_token() is not None:
                return
            time.sleep(0.02)  # the one before has not been let go of yet

    def _keep_captures(self) -> None:
        """A whole stream and one that broke off."""
        states = {capture.capture_id: capture.state for capture in self.client.captures()}
        for capture_id in states.keys() - {"whole", "broken"}:
            if states[capture_id] != pb.CAPTURE_STATE_RUNNING:
                self.client.delete_capture(capture_id)
        if "whole" not in states:
            self.client.capture(IDS, ["resid_post"], model_id=MODEL, resumable=True, capture_id="whole")
        if states.get("broken") != pb.CAPTURE_STATE_BROKEN:
            if "broken" in states:
                self.client.delete_capture("broken")
            with self.client.generate(IDS, max_tokens=400, ignore_eos=True, resumable=True, generation_id="broken") as g:
                next(g)
            deadline = time.monotonic() + DEADLINE_S
            while self.client.get_capture("broken").state != pb.CAPTURE_STATE_BROKEN:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def examples(self) -> dict[str, Any]:
        """What is good for the bundled model, by message and field."""
        site, expression = site_pb2.Site, intervention_pb2.Expression
        direction = np.arange(1, 129, dtype=np.float32)
        inline = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[128], data=direction.tobytes())
        references = [
            tensor_pb2.TensorReference(tensor_id=self.tensor_id),
            tensor_pb2.TensorReference(inline=inline),
        ]
        itself = expression(activation=intervention_pb2.Activation())
        doubled = intervention_pb2.BinaryOperation(
            operator=intervention_pb2.BINARY_OPERATOR_MULTIPLY, left=itself, right=expression(constant=2)
        )
        with pytest.raises(StreamingError) as caught:
            self.client.resume_capture("broken")
        upload = [
            pb.PutTensorRequest(
                header=pb.TensorHeader(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, 64], time_to_live_ms=2000)
            ),
            *(
                pb.PutTensorRequest(
                    tensor_frame=tensor_pb2.TensorFrame(
                        offset_bytes=offset,
                        data=direction.tobytes()[offset : offset + 256],
                        last=offset > 0,
                        xxh3_64=UPLOAD_CHECKSUM(direction) if offset else 0,
                    )
                )
                for offset in (0, 256)
            ),
        ]
        return {
            # messages
            "Site": [
                site(component="resid_post", layer=1),
                site(component="attention_pattern"),
                site(component="blocks.2.hook_mlp_out"),
                site(component="residual", layer_name="transformer.h.3", side=site_pb2.SIDE_INPUT),
                site(component="logits"),
            ],
            "Prompt": [
                pb.Prompt(text="The capital of France is"),
                pb.Prompt(token_ids=pb.TokenIds(ids=IDS), bos=pb.BOS_POLICY_OMIT),
                pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="Hello")])),
            ],
            "Selector": [
                site_pb2.Selector(),
                site_pb2.Selector(positions=site_pb2.PositionSelector(list=site_pb2.PositionList(positions=[-1, 0]))),
                site_pb2.Selector(positions=site_pb2.PositionSelector(range=site_pb2.PositionRange(start=1, stop=3))),
                site_pb2.Selector(steps=site_pb2.StepSelector(stop=2), rows=[0]),
            ],
            "Reduction": [
                pb.Reduction(norm=pb.NormReduction()),
                pb.Reduction(mean=pb.MeanReduction()),
                pb.Reduction(top_k=pb.TopKReduction(k=3)),
                pb.Reduction(projection=pb.ProjectionReduction(directions=references[0])),
                pb.Reduction(lens=pb.LensReduction(top_k=2, token_ids=[5], kl=True)),
            ],
            "Expression": [
                itself,
                expression(constant=0),
                expression(binary=doubled),
                expression(noise=intervention_pb2.Noise(seed=3, standard_deviation=0.1)),
                expression(clamp=intervention_pb2.Clamp(operand=itself, minimum=-1)),
                expression(reference_mean=intervention_pb2.ReferenceMean(reference=references[1])),
                *(
                    expression(project_out=intervention_pb2.ProjectOut(operand=itself, direction=reference))
                    for reference in references
                ),
            ],
            # fields of a few messages
            "Intervention.site": [site(component="resid_post", layer=2), site(component="mlp_out", layer=0)],
            "UnloadModelRequest.model_id": [SPARE],
            "LoadModelRequest.model_path": [str(self.folder)],
            "LoadModelRequest.model_id": ["", SPARE, "another"],
            "LoadModelRequest.adapter_path": [None],
            "LoadModelRequest.revision": [None],
            "GetTraceRequest.trace_id": [self.trace_id],
            "AdvanceGenerationRequest.generation_id": ["running"],
            "SteerRequest.generation_id": ["running"],
            "HealthCheckRequest.service": ["", "neuroscope.v1.ModelService"],
            "ResumeCaptureRequest.restart_token": [None, None, caught.value.restart_token],
            "ResumeCaptureRequest.capture_id": ["whole", "whole", "broken"],
            "GetCaptureRequest.capture_id": ["whole", "broken"],
            "CapturedTensor.capture_id": ["whole"],
            "ClearHooksRequest.hook_ids": [(), ("stored",)],
            "TopKReduction.k": [1, 5],
            "CaptureRequest.capture_id": [None, "kept"],
            "GetCapturedTensorRequest.tensor": [tensor_pb2.CapturedTensor(capture_id="whole", plan_index=1)],
            # fields of any message
            "model_id": ["", MODEL],
            "prompts": [[pb.Prompt(text="Once upon a time")], [pb.Prompt(token_ids=pb.TokenIds(ids=IDS))] * 2],
            "prompt": [pb.Prompt(text="Once upon a time")],
            "sampling": [pb.Sampling(max_tokens=2), pb.Sampling(max_tokens=3, temperature=1, top_logprobs=2, seed=1)],
            "hook_ids": [(), ("stored",)],
            "token_ids": [(5, 6), (70,)],
            "dtype": [None, tensor_pb2.DATA_TYPE_FLOAT16, tensor_pb2.DATA_TYPE_FLOAT32],
            "cache_quantization": [None, None, pb.CacheQuantization(bits=8, group_size=32)],
            "chunk_budget_bytes": [None, 4096],
            "stop_at_layer": [None, 3],
            "generation_id": [None],
            "max_steps_ahead": [None, None, 1],
            "capture_id": ["whole"],
            "intervention_id": [None, "edit"],
            "interventions": [(), ()],
            # uploads
            "PutTensor": [upload],
        }


def UPLOAD_CHECKSUM(array: Any) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(array.tobytes())


def most_events(case: Case) -> int:
    """How much of a stream is read: to where it waits for credit, or for a change of health, that will not come."""
    if case.rpc.method == "Watch":
        return 1
    try:
        request = case.rpc.request.FromString(case.parts[0])
    except DecodeError:
        return MOST_EVENTS
    return 1 if getattr(request, "max_steps_ahead", 0) else MOST_EVENTS


@pytest.fixture
def fuzzed(bundled_model_dir: Path, tmp_path: Path) -> Iterator[Fuzzed]:
    """A service of its own, with the bundled model twice."""
    arguments = ("--tensor-max-bytes", "8000000", "--spool-max-bytes", "64000000", "--log-level", "ERROR")
    with inference_service(bundled_model_dir, arguments=arguments) as service:
        transport = GrpcTransport(service.target)
        with grpc.insecure_channel(service.target) as channel:
            running = Fuzzed(service, bundled_model_dir, transport, channel)
            yield running
            running.close()
        transport.close()


def test_every_spoilt_request_is_answered_or_its_callers_mistake(
    fuzzed: Fuzzed, request: pytest.FixtureRequest
) -> None:
    """No INTERNAL, no UNKNOWN, nothing that hangs; right answers and no more memory afterwards."""
    total = int(str(request.config.getoption("--fuzz-cases")))
    before = fuzzed.answer()
    for first in range(0, total, 1000):
        fuzzed.run(first, min(first + 1000, total))
        print(fuzzed.resident_bytes)
    wrong = [(case, outcome) for case, outcome in fuzzed.outcomes if outcome.code not in ALLOWED]
    summary = Counter((case.rpc.method, outcome.code, outcome.detail[:120]) for case, outcome in wrong)
    import pprint; pprint.pprint(summary)
    seen=set()
    for case, outcome in wrong:
        key=(case.rpc.method, outcome.code, outcome.detail[:30])
        if key not in seen:
            seen.add(key); print(case, outcome)
    codes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case, outcome in fuzzed.outcomes:
        codes[case.rpc.method][outcome.code] += 1
    for k, v in codes.items(): print(k, dict(v))
    good = Counter((c.rpc.method, o.code, o.detail[:200]) for c, o in fuzzed.outcomes if c.how == "good" and o.code != "OK")
    pprint.pprint(good)
    print("slow", sorted(((o.seconds, c.rpc.method, o.code) for c, o in fuzzed.outcomes), reverse=True)[:8])
    unreasoned = Counter((c.rpc.method, o.code, o.detail[:80]) for c, o in fuzzed.outcomes if not o.has_reason)
    print("without reason", unreasoned)
    assert fuzzed.service.process.poll() is None
    assert fuzzed.answer() == before
    print(fuzzed.service.log[-3000:])
    assert not wrong
