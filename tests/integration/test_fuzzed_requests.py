"""Spoilt requests to every call: each is answered or blamed on its caller, and the service goes on as it was.

python -m pytest tests/integration/test_fuzzed_requests.py --fuzz-cases 5000
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from neuroscope import Client
from neuroscope.errors import StreamingError, error_classes
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire import status
from neuroscope.wire.transport import GrpcTransport
from tests.support import tracing
from tests.support.following import Follower
from tests.support.fuzzing.cases import CALLS, Case, Cases
from tests.support.fuzzing.examples import DICTIONARY, DIRECTION, IDS, There, examples
from tests.support.recording import Hook, generate_request, prompt, record
from tests.support.services import Service, inference_service

SEED = 2026
DEADLINE_S = 20.0
MOST_EVENTS = 16
"""Read of a stream, which may be one of thousands of tokens."""
TENDED_EVERY = 50
UPSETTING = {
    *("LoadModel", "UnloadModel", "LoadDictionary", "UnloadDictionary"),
    *("ClearHooks", "DeleteCapture", "ResumeCapture"),
}
"""Calls after which other good requests would no longer be good."""
SAE = Path(__file__).parents[2] / "models" / "dictionaries" / "resid_post_2"
GROWTH_BAR_BYTES = 20_000_000
MODEL, SPARE = "neuroscope-tiny", "spare"
ALLOWED = {"OK", "DATA_LOSS", "ABORTED"} | {
    cls.grpc_status.name for cls in error_classes().values() if 400 <= cls.http_status < 500
}
"""What a spoilt request may be answered. DATA_LOSS: a tensor that is not that of its checksum."""


class Fuzzed:
    """A service, what must be there for good requests to be good, and what became of the others."""

    def __init__(self, service: Service, folder: Path, channel: grpc.Channel) -> None:
        self.service = service
        self.outcomes: list[tuple[Case, str, str]] = []
        """Of each case the status, and what it says."""
        self.resident_bytes: dict[int, int] = {}
        """By number of cases."""
        self._folder = folder
        self._channel = channel
        self._transport = GrpcTransport(service.target)
        self._client = Client(transport=self._transport)
        self._running: Follower | None = None
        self.tend()
        with tracing.traced() as (trace_id, _):
            self._client.tokenize("a trace")
        with pytest.raises(StreamingError) as caught:
            self._client.resume_capture("broken")
        there = There(
            model_id=MODEL,
            model_path=str(folder),
            spare_model_id=SPARE,
            hook_id="stored",
            generation_id="running",
            whole_capture_id="whole",
            broken_capture_id="broken",
            restart_token=caught.value.restart_token,
            tensor_id=self._client.put_tensor(DIRECTION),
            trace_id=trace_id,
            dictionary_path=str(SAE),
        )
        self._cases = Cases(SEED, examples(there))

    def run(self, first: int, last: int) -> None:
        """Sends the cases of these numbers, and notes the memory that the service then has."""
        for number in range(first, last):
            case = self._cases.case(number)
            code, says = self._outcome(case)
            self.outcomes.append((case, code, says))
            if number % TENDED_EVERY == 0 or (code == "OK" and case.rpc.method in UPSETTING):
                self.tend()
        self._client.unload_model(SPARE)  # MLX lets go of the buffers that it keeps for other arrays
        self.tend()
        self.resident_bytes[last] = self.service.resident_bytes()

    def answer(self) -> tuple[list[int], dict[Any, Any]]:
        """What it says when it is asked properly: tokens, and checksums of what was captured."""
        hooks = ("resid_post", "attention_pattern")
        request = generate_request(prompt(IDS), *hooks, model_id=MODEL, max_tokens=6, ignore_eos=True)
        recording = record(self._transport, request, timeout_s=DEADLINE_S)
        return recording.token_ids(), recording.checksums()

    def tend(self) -> None:
        """Makes the service what good requests take it for."""
        loaded = {model.model_id for model in self._client.models()}
        for model_id in loaded - {MODEL, SPARE}:
            self._client.unload_model(model_id)
        for model_id in {MODEL, SPARE} - loaded:
            self._client.load_model(str(self._folder), model_id=model_id)
        known = {one.dictionary_id for one in self._client.dictionaries}
        for dictionary_id in known - {DICTIONARY}:
            self._client.dictionaries.unload(dictionary_id)
        if DICTIONARY not in known:
            self._client.dictionaries.load(SAE, dictionary_id=DICTIONARY, model_id=MODEL)
        self._client.clear_hooks()
        self._client.register_hooks([Hook("resid_post", 1, hook_id="stored")])
        self._client.put_tensor(DIRECTION)
        self._keep_captures()
        self._run_generation()

    def close(self) -> None:
        """Leaves the service."""
        if self._running is not None:
            self._running.close()
        self._transport.close()

    def _outcome(self, case: Case) -> tuple[str, str]:
        """Sends the bytes as they are, through a stub that knows no messages."""
        rpc = case.rpc
        kind = f"{'stream' if rpc.streams_requests else 'unary'}_{'stream' if rpc.streams_responses else 'unary'}"
        make: Callable[..., Any] = getattr(self._channel, kind)
        call: Any = None
        try:
            call = make(rpc.path)(iter(case.parts) if rpc.streams_requests else case.parts[0], timeout=DEADLINE_S)
            for answer in itertools.islice(call, most_events(case)) if rpc.streams_responses else [call]:
                rpc.response.FromString(answer)
        except grpc.RpcError as error:
            code, says = error.code().name, str(error.details())
            without_reason = status.error_info(error) is None and "Received message larger than max" not in says
            return f"{code} without a reason" if without_reason else code, says
        finally:
            if rpc.streams_responses and call is not None:
                call.cancel()
        return "OK", ""

    def _run_generation(self) -> None:
        """The one that calls name which steer and advance."""
        if self._running is not None:
            self._running.close()
        request = generate_request(
            prompt(IDS), max_tokens=400, ignore_eos=True, max_steps_ahead=1, generation_id="running", model_id=MODEL
        )
        deadline = time.monotonic() + DEADLINE_S
        while True:
            self._running = Follower(self._transport, request)
            if self._running.next_token() is not None:
                return
            assert time.monotonic() < deadline, self._running.error
            time.sleep(0.01)  # the one before has not been let go of yet

    def _keep_captures(self) -> None:
        """One whole stream, and one that broke off."""
        states = {capture.capture_id: capture.state for capture in self._client.captures()}
        for capture_id, state in list(states.items()):
            is_used_up = capture_id == "broken" and state == pb.CAPTURE_STATE_COMMITTED
            if is_used_up or (capture_id not in ("whole", "broken") and state != pb.CAPTURE_STATE_RUNNING):
                self._client.delete_capture(capture_id)
                del states[capture_id]
        if "whole" not in states:
            self._client.capture(IDS, ["resid_post"], model_id=MODEL, resumable=True, capture_id="whole")
        if "broken" not in states:
            options: dict[str, Any] = {"max_tokens": 400, "ignore_eos": True, "seed": 1, "model_id": MODEL}
            with self._client.generate(IDS, resumable=True, generation_id="broken", **options) as generation:
                next(generation)
        deadline = time.monotonic() + DEADLINE_S
        while self._client.get_capture("broken").state != pb.CAPTURE_STATE_BROKEN:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def most_events(case: Case) -> int:
    """How much of a stream is read: up to where it waits for credit, or for a change of health."""
    if case.rpc.method == "Watch":
        return 1
    try:
        request = case.rpc.request.FromString(case.parts[0])
    except DecodeError:
        return MOST_EVENTS
    return 1 if getattr(request, "max_steps_ahead", 0) else MOST_EVENTS


@pytest.fixture
def fuzzed(bundled_model_dir: Path) -> Iterator[Fuzzed]:
    """A service of its own, with the bundled model twice."""
    arguments = ("--tensor-max-bytes", "8000000", "--spool-max-bytes", "64000000", "--log-level", "WARNING")
    with (
        inference_service(bundled_model_dir, arguments=arguments) as service,
        grpc.insecure_channel(service.target) as channel,
    ):
        running = Fuzzed(service, bundled_model_dir, channel)
        yield running
        running.close()


@pytest.mark.timeout(900)
def test_every_spoilt_request_is_answered_or_its_callers_mistake(
    fuzzed: Fuzzed, request: pytest.FixtureRequest
) -> None:
    """No INTERNAL, no UNKNOWN, nothing that hangs; right answers and no more memory afterwards."""
    total = int(str(request.config.getoption("--fuzz-cases")))
    before = fuzzed.answer()
    for first in range(0, total, 1000):
        fuzzed.run(first, min(first + 1000, total))
    wrong = [f"{code}: {says}: {case}" for case, code, says in fuzzed.outcomes if code not in ALLOWED]
    assert not wrong, "\n".join(wrong[:10])
    assert fuzzed.service.process.poll() is None
    assert fuzzed.answer() == before
    assert "Traceback" not in fuzzed.service.log

    codes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case, code, _ in fuzzed.outcomes:
        codes[case.rpc.method][code] += 1
    print(*(f"{method}: {dict(found)}" for method, found in codes.items()), fuzzed.resident_bytes, sep="\n")
    assert codes.keys() == {call.method for call in CALLS}
    for method, found in codes.items():
        assert found["OK"], f"no {method} came through: {found}"
    if total > 1000:
        assert fuzzed.resident_bytes[total] <= fuzzed.resident_bytes[1000] + GROWTH_BAR_BYTES, fuzzed.resident_bytes
