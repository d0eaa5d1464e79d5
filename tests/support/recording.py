"""What one Generate or Capture stream carried, event by event: tests look at the wire, below the SDK's clients.

    recording = record(transport, capture_request(prompt(ids), "resid_post", "attention_pattern.1"))
    recording.array("resid_post", 3)          (1, position, d_model)

`record` checks what holds for every stream: order of events, sequence of frames, checksums, and a manifest that
accounts for every byte.
"""

import itertools
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.v1.intervention_pb2 import Intervention
from neuroscope.vocabulary.hooks import Hook, HookLike, to_messages
from neuroscope.vocabulary.sites import Point
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import FrameReader, TensorPiece
from neuroscope.wire.rpc import RPCS, Rpc

__all__ = ["Hook", "Recording", "capture_request", "generate_request", "prompt", "record"]

Array = NDArray[Any]
Request = pb.GenerateRequest | pb.CaptureRequest


class StreamingTransport(Protocol):
    """What of a transport is used here."""

    def stream(self, rpc: Rpc, request: Any, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """One request, a stream of responses."""
        ...


@dataclass
class Recording:
    """The events of a stream, or of its beginning."""

    started: pb.StreamStarted | None = None
    plan: tensor_pb2.TensorPlan | None = None
    pieces: list[TensorPiece] = field(default_factory=list)
    tokens: list[pb.TokenEvent] = field(default_factory=list)
    manifest: pb.Manifest | None = None
    frames: int = 0
    rows_per_prompt: int = 1
    _reader: FrameReader | None = None

    def add(self, event: Event) -> pb.TokenEvent | None:
        """Takes the next event; gives it back if it is a token."""
        assert self.manifest is None, "an event came after the manifest"
        if isinstance(event, Frame):
            assert self._reader is not None, "a frame came before the plan"
            self.frames += 1
            self.pieces += self._reader.read(event)
            return None
        assert isinstance(event, pb.GenerateResponse | pb.CaptureResponse)
        if event.HasField("started"):
            assert self.started is None
            self.started = event.started
            return None
        assert self.started is not None, "the stream did not begin with `started`"
        if event.HasField("plan"):
            assert self.plan is None
            self.plan = event.plan
            self._reader = FrameReader(event.plan)
            assert [spec.plan_index for spec in event.plan.tensors] == list(range(len(event.plan.tensors)))
        elif event.HasField("manifest"):
            self.manifest = event.manifest
            self._check_manifest(event.manifest)
        else:
            assert isinstance(event, pb.GenerateResponse)
            self._check_token(event.token)
            self.tokens.append(event.token)
            return event.token
        return None

    # What was generated.

    def text(self, row: int = 0) -> str:
        """The text of a row."""
        return "".join(token.text for token in self.tokens if token.row == row)

    def token_ids(self, row: int = 0) -> list[int]:
        """The generated tokens of a row."""
        return [token.token_id for token in self.tokens if token.row == row]

    def finish_reason(self, row: int = 0) -> pb.FinishReason.ValueType:
        """Why a row ended."""
        return [token.finish_reason for token in self.tokens if token.row == row][-1]

    def prompt_ids(self, row: int = 0) -> list[int]:
        """The prompt of a row as the model read it."""
        assert self.started is not None
        return list(self.started.prompts[row].ids)

    # What was captured.

    def of(self, component: str, layer: int | None = None, *, hook_id: str | None = None, row: int = 0, is_input=False):
        """The pieces of one tensor in the order they came."""
        point = Point(component, layer, is_input)
        return [
            piece
            for piece in self.pieces
            if Point.from_message(piece.spec.site) == point
            and piece.row == row
            and hook_id in (None, piece.spec.hook_id)
        ]

    def array(self, component: str, layer: int | None = None, **which: Any) -> Array:
        """One tensor, its pieces joined along the position axis; key columns are padded as a causal mask would."""
        return joined(self.of(component, layer, **which))

    def arrays(self, row: int = 0) -> dict[tuple[str, int | None], Array]:
        """Every tensor of a row that is an output, by (component, layer)."""
        found: defaultdict[tuple[str, int | None], list[TensorPiece]] = defaultdict(list)
        for piece in self.pieces:
            point = Point.from_message(piece.spec.site)
            if piece.row == row and not point.is_input:
                found[point.component, point.layer].append(piece)
        return {name: joined(pieces) for name, pieces in found.items()}

    def checksums(self) -> dict[tuple[str, str, int], tuple[int, int, int]]:
        """By hook id, point and row: pieces, bytes and checksum of the manifest."""
        assert self.manifest is not None
        assert self.plan is not None
        return {
            (entry.hook_id, str(Point.from_message(self.plan.tensors[entry.plan_index].site)), entry.row): (
                entry.piece_count,
                entry.length_bytes,
                entry.xxh3_64,
            )
            for entry in self.manifest.entries
        }

    # What holds for every stream.

    def _check_token(self, token: pb.TokenEvent) -> None:
        steps = [earlier.step for earlier in self.tokens if earlier.row == token.row]
        assert token.step == len(steps), f"row {token.row}: step {token.step} came after {len(steps)} tokens"
        late = [piece for piece in self.pieces if piece.row == token.row and piece.step > token.step]
        assert not late, "frames of a step came before the token of an earlier one"

    def _check_manifest(self, manifest: pb.Manifest) -> None:
        assert manifest.frame_count == self.frames
        digests = {} if self._reader is None else self._reader.digests
        assert {(entry.plan_index, entry.row) for entry in manifest.entries} == set(digests)
        for entry in manifest.entries:
            digest = digests[entry.plan_index, entry.row]
            assert (entry.piece_count, entry.length_bytes, entry.position_count, entry.xxh3_64) == (
                digest.piece_count,
                digest.length_bytes,
                digest.position_count,
                digest.checksum,
            )
        assert self.started is not None
        assert manifest.usage.prompt_tokens == sum(
            len(prompt.ids) for prompt in self.started.prompts[:: self.rows_per_prompt]
        )
        assert manifest.usage.completion_tokens == len(self.tokens)


def record(transport: StreamingTransport, request: Request, *, timeout_s: float = 120) -> Recording:
    """The whole stream of a request.

    Raises:
        neuroscope.errors.MLXIntegrationError: the call failed.
    """
    recording = Recording()
    if isinstance(request, pb.GenerateRequest):
        recording.rows_per_prompt = request.sampling.rows_per_prompt or 1
    for event in transport.stream(rpc_of(request), request, timeout_s=timeout_s):
        recording.add(event)
    assert recording.manifest is not None, "the stream ended without a manifest"
    return recording


def rpc_of(request: Request) -> Rpc:
    """The call that a request belongs to."""
    return RPCS["Generate" if isinstance(request, pb.GenerateRequest) else "Capture"]


def prompt(
    content: str | Sequence[int] | Sequence[dict[str, str]], bos: pb.BosPolicy.ValueType = pb.BOS_POLICY_UNSPECIFIED
) -> pb.Prompt:
    """A prompt of text, of token ids or of messages."""
    if isinstance(content, str):
        return pb.Prompt(text=content, bos=bos)
    if content and isinstance(content[0], dict):
        messages = [pb.ChatMessage(**cast(Any, message)) for message in content if isinstance(message, dict)]
        return pb.Prompt(chat=pb.Chat(messages=messages), bos=bos)
    return pb.Prompt(token_ids=pb.TokenIds(ids=[int(token) for token in content]), bos=bos)  # type: ignore[arg-type]


def capture_request(
    prompts: pb.Prompt | Iterable[pb.Prompt], *hooks: HookLike, model_id: str = "", **fields: Any
) -> pb.CaptureRequest:
    """A capture of these hooks; further arguments are fields of the request."""
    rows = [prompts] if isinstance(prompts, pb.Prompt) else list(prompts)
    return pb.CaptureRequest(model_id=model_id, prompts=rows, hooks=to_messages(hooks), **fields)


def generate_request(
    prompts: pb.Prompt | Iterable[pb.Prompt],
    *hooks: HookLike,
    model_id: str = "",
    max_steps_ahead: int = 0,
    generation_id: str = "",
    resumable: bool = False,
    chunk_budget_bytes: int = 0,
    hook_ids: Sequence[str] = (),
    interventions: Sequence[Intervention] = (),
    cache_quantization: pb.CacheQuantization | None = None,
    **sampling: Any,
) -> pb.GenerateRequest:
    """A generation; further arguments are fields of Sampling."""
    rows = [prompts] if isinstance(prompts, pb.Prompt) else list(prompts)
    return pb.GenerateRequest(
        model_id=model_id,
        prompts=rows,
        sampling=pb.Sampling(**sampling),
        hooks=to_messages(hooks),
        hook_ids=hook_ids,
        interventions=interventions,
        max_steps_ahead=max_steps_ahead,
        generation_id=generation_id,
        resumable=resumable,
        chunk_budget_bytes=chunk_budget_bytes,
        cache_quantization=cache_quantization,
    )


def joined(pieces: Sequence[TensorPiece]) -> Array:
    """Pieces of one tensor along its position axis; key columns lie at their absolute positions.

    Keys that a piece has no column for hold what a mask gives: 0 in patterns, the lowest float32 in scores.
    """
    assert pieces, "nothing was captured"
    spec = pieces[0].spec
    axes = list(spec.axes)
    axis = axes.index(tensor_pb2.AXIS_POSITION)
    arrays = [piece.array for piece in pieces]
    if tensor_pb2.AXIS_KEY_POSITION in axes:
        keys = [list(piece.key_positions) or list(range(piece.array.shape[-1])) for piece in pieces]
        masked = np.finfo(np.float32).min if spec.site.component == "attention_scores" else 0.0
        wide = [np.full((*a.shape[:-1], 1 + max(map(max, keys))), masked, a.dtype) for a in arrays]
        for target, array, columns in zip(wide, arrays, keys, strict=True):
            assert len(columns) == len(set(columns)) == array.shape[-1], "key positions do not name the columns"
            target[..., columns] = array
        arrays = wide
    positions = list(itertools.chain.from_iterable(positions_of(piece, axis) for piece in pieces))
    assert positions == sorted(set(positions)), f"pieces of {spec.hook_id} overlap or are out of order: {positions}"
    return np.concatenate(arrays, axis=axis)


def positions_of(piece: TensorPiece, axis: int | None = None) -> list[int]:
    """Absolute positions along the position axis of a piece."""
    axis = list(piece.spec.axes).index(tensor_pb2.AXIS_POSITION) if axis is None else axis
    first = piece.first_position
    return list(piece.positions) or list(range(first, first + piece.array.shape[axis]))
