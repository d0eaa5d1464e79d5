"""State of a Generate or Capture stream. It performs no input or output.

Both clients read events from their transports and feed them to `StreamState`.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from neuroscope.activations.cache import ActivationCache
from neuroscope.errors import ChecksumError, DoubledBosWarning, StreamingError
from neuroscope.tracing import telemetry
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tools import ToolCall
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import FrameReader, TensorDigest, TensorPiece

_INTERNAL_PACKAGES = ("neuroscope", "tenacity")  # skipped when a warning names the caller
_FINISH_REASONS = {
    pb.FINISH_REASON_UNSPECIFIED: "",
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
}


class TokenLogprob(NamedTuple):
    """A candidate token with its natural log-probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(slots=True)
class GeneratedToken:
    """A generated token, with the activations captured in its forward pass."""

    row: int
    """Row of the request; with `n` above 1, the prompt is `row // n`."""
    step: int
    """Step of the forward pass that produced the token; 0 is the prefill."""
    token_id: int
    """Id of the token."""
    text: str
    """Text that became final; empty for an incomplete character or the possible start of a stop text."""
    logprob: float
    """Natural log-probability by the model, before bias, penalties, temperature and filters."""
    top_logprobs: tuple[TokenLogprob, ...]
    """The likeliest tokens, likeliest first."""
    finish_reason: str
    """`stop` or `length` for the last token of a row, else empty."""
    activations: dict[str, list[TensorPiece]] = field(default_factory=dict[str, list[TensorPiece]])
    """Pieces by hook id, in the order sent; step 0 has those of all prefill chunks."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Tool calls that became complete; their text is not part of `text`."""

    def __repr__(self) -> str:
        end = f", {self.finish_reason}" if self.finish_reason else ""
        captured = f", activations of {len(self.activations)} hooks" if self.activations else ""
        return (
            f"GeneratedToken({self.text!r}, id {self.token_id}, row {self.row}, step {self.step}, "
            f"logprob {self.logprob:.4f}{captured}{end})"
        )


class StreamState:
    """The state of a stream.

    Args:
        keep: whether to collect tensors in `cache`.
        steps_ahead: the most steps by which a generation with credits may be ahead of the last token read.
        take: is called with every piece as it is received; pieces are then not attached to tokens.

    Attributes:
        started: the first message.
        plan: the tensors of the frames; None if nothing is captured.
        manifest: the last message.
        cache: the activations received so far, if `keep`.
        texts: the generated text of each row.
        tool_calls: the tool calls of each row.
        received_bytes: bytes of received tensors.
        token_count: the number of generated tokens, over all rows.
        is_sound: whether all events were valid, so that the stream can be resumed.
    """

    def __init__(
        self, *, keep: bool = True, steps_ahead: int = 1, take: Callable[[TensorPiece], None] | None = None
    ) -> None:
        self.started: pb.StreamStarted | None = None
        self.plan: tensor_pb2.TensorPlan | None = None
        self.manifest: pb.Manifest | None = None
        self.cache = ActivationCache()
        self.texts: list[str] = []
        self.tool_calls: list[list[ToolCall]] = []
        self.received_bytes = 0
        self.token_count = 0
        self.frame_count = 0
        self.is_sound = True
        self._keep = keep
        self._take = take
        self._reader: FrameReader | None = None
        self._hook_ids: list[str] = []
        self._pending: defaultdict[tuple[int, int], list[TensorPiece]] = defaultdict(list)
        self._steps: dict[int, int] = {}  # last step of each unfinished row
        self._steps_ahead = self._granted_steps = steps_ahead
        self._resumed = False

    def feed(self, event: Event) -> GeneratedToken | None:
        """Processes an event. Returns a token with its tensors if the event completes one.

        Raises:
            StreamingError: the event is out of order.
            ChecksumError: a tensor's bytes or the manifest do not match the received data.
        """
        self.is_sound = False
        token = self._feed(event)
        self.is_sound = True
        return token

    def _feed(self, event: Event) -> GeneratedToken | None:
        if isinstance(event, Frame):
            self._feed_frame(event)
            return None
        assert isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse)
        if self.started is None and not event.HasField("started"):
            raise StreamingError("the stream did not begin with what the server is about to do")
        if not isinstance(event, pb.CaptureResponse) and event.HasField("token"):
            return self._feed_token(event.token)
        if event.HasField("started"):
            self._feed_started(event.started)
        elif event.HasField("plan"):
            self._feed_plan(event.plan)
        elif event.HasField("manifest"):
            self._feed_manifest(event.manifest)
        return None

    def resume(self) -> int:
        """Prepares to resume the stream, and returns the sequence number of the next frame.

        The messages before the frames are sent again and must be the same; repeated tokens are skipped.
        """
        self._resumed = True
        return self.frame_count

    def finish(self) -> pb.Manifest:
        """Returns the manifest after the end of the stream.

        Raises:
            StreamingError: the stream ended without one.
        """
        if self.manifest is None:
            raise StreamingError("the stream ended without its manifest: some of it is missing")
        return self.manifest

    def attributes(self) -> dict[str, int]:
        """Attributes of the trace span."""
        return {telemetry.TOKENS: self.token_count, telemetry.BYTES: self.received_bytes}

    def wants_step(self) -> bool:
        """Whether all unfinished rows are read far enough to grant another step."""
        return bool(self._steps) and min(self._steps.values()) >= self._granted_steps - self._steps_ahead

    def grant(self, granted_steps: int) -> None:
        """Records the credits granted so far; the prefill counts as one step."""
        self._granted_steps = max(self._granted_steps, granted_steps)

    def _feed_started(self, started: pb.StreamStarted) -> None:
        if self._resumed and self.started is not None:
            if started != self.started:
                raise StreamingError("the stream that was resumed is another one")
            return
        self.started = started
        self.texts = [""] * len(started.prompts)
        self.tool_calls = [[] for _ in started.prompts]
        self._steps = dict.fromkeys(range(len(started.prompts)), -1)
        self.cache.begin(started.model_id, [prompt.ids for prompt in started.prompts])
        warn(started.warnings)

    def _feed_plan(self, plan: tensor_pb2.TensorPlan) -> None:
        if self._resumed and self.plan is not None:
            if plan != self.plan:
                raise StreamingError("the stream that was resumed has another plan")
            return
        self.plan = plan
        self._reader = FrameReader(plan)
        self._hook_ids = [spec.hook_id for spec in plan.tensors]
        self.cache.expect(plan.tensors, self._reader.digests)

    def _feed_frame(self, framed: Frame) -> None:
        if self._reader is None:
            raise StreamingError("a frame came before the plan")
        self.frame_count += 1
        self.received_bytes += framed.nbytes
        # Keeping a view would hold the sender's shared memory.
        pieces = self._reader.read(framed.owned() if self._keep else framed)
        if self._keep:
            for piece in pieces:
                self.cache.add(piece)
        for piece in pieces:
            if self._take is not None:
                self._take(piece)
            else:
                self._pending[piece.row, piece.step].append(piece)

    def _feed_token(self, token: pb.TokenEvent) -> GeneratedToken | None:
        row = token.row
        if row >= len(self.texts):
            raise StreamingError(f"a token came for row {row} of {len(self.texts)}")
        if self._resumed and token.step <= self._steps.get(row, token.step):
            return None
        finish_reason = _FINISH_REASONS[token.finish_reason]
        activations: dict[str, list[TensorPiece]] = {}
        hook_ids = self._hook_ids
        for piece in self._pending.pop((row, token.step), ()):
            activations.setdefault(hook_ids[piece.spec.plan_index], []).append(piece)
        self.token_count += 1
        self.texts[row] += token.text
        calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in token.tool_calls)
        self.tool_calls[row] += calls
        self.cache.token_ids[row].append(token.token_id)
        if finish_reason:
            self._steps.pop(row, None)
        else:
            self._steps[row] = token.step
        return GeneratedToken(
            row,
            token.step,
            token.token_id,
            token.text,
            token.logprob,
            tuple(TokenLogprob(top.token_id, top.text, top.logprob) for top in token.top_logprobs),
            finish_reason,
            activations,
            calls,
        )

    def _feed_manifest(self, manifest: pb.Manifest) -> None:
        digests = {} if self._reader is None else self._reader.digests
        if manifest.frame_count != self.frame_count:
            raise StreamingError(f"{manifest.frame_count} frames were sent and {self.frame_count} received")
        unaccounted = set(digests) - {(entry.plan_index, entry.row) for entry in manifest.entries}
        if unaccounted:
            hook_id = self._hook_ids[min(unaccounted)[0]]
            raise ChecksumError(f"the manifest says nothing of {hook_id!r}, which was received")
        for entry in manifest.entries:
            _compare(entry, digests.get((entry.plan_index, entry.row), TensorDigest()))
        self.manifest = self.cache.manifest = manifest
        self._pending.clear()
        warn(manifest.warnings)


def warn(texts: Iterable[str]) -> None:
    """Issues the server's warnings as Python warnings, at the line that called the SDK."""
    for text in texts:
        doubled = "beginning-of-sequence" in text.lower() or "bos" in text.lower()
        warnings.warn(text, DoubledBosWarning if doubled else UserWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """`stacklevel` of the first frame outside of the SDK, for `warnings.warn` in the calling function."""
    level = 1
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] in _INTERNAL_PACKAGES:
        frame = frame.f_back
        level += 1
    return level


def _compare(entry: pb.ManifestEntry, digest: TensorDigest) -> None:
    sent = (entry.piece_count, entry.length_bytes, entry.xxh3_64 if entry.piece_count else 0)
    received = (digest.piece_count, digest.length_bytes, digest.checksum if digest.piece_count else 0)
    if sent != received:
        raise ChecksumError(
            f"{entry.hook_id!r} in row {entry.row} differs from the manifest: (pieces, bytes, xxh3) were {sent} when"
            f" sent and {received} when received"
        )
