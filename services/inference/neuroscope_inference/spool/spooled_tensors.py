"""A tensor out of a kept stream, for requests that refer to one."""

from __future__ import annotations

from neuroscope.activations.activation import Activation
from neuroscope.errors import InvalidRequestError, StreamingError, UnknownIdError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array
from neuroscope.wire.codec import Frame, decoder
from neuroscope.wire.frames import FrameReader
from neuroscope_inference.spool.entry import SpoolEntry
from neuroscope_inference.spool.records import RecordKind
from neuroscope_inference.spool.spool import Spool

_decode = decoder(pb.ResumeCaptureResponse)


class SpooledTensors:
    """Reads tensors of a spool's whole streams."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def tensor(self, captured: tensor_pb2.CapturedTensor, field: str) -> Array:
        """One tensor of one step and row, its pieces joined along the position axis; (1, ...), read-only.

        Raises:
            UnknownIdError: no such capture is kept.
            StreamingError: it is not whole.
            InvalidRequestError: its plan, step or row is not there; says which are.
            ChecksumError: its bytes were changed on the disk.
        """
        entry = self._spool.get(captured.capture_id, f"{field}.capture_id")
        if entry.state != "committed":
            raise StreamingError(f"capture {captured.capture_id!r} is {entry.state}", field=f"{field}.capture_id")
        tensors = entry.plan.tensors if entry.plan is not None else ()
        if captured.plan_index >= len(tensors):
            raise InvalidRequestError(
                f"capture {captured.capture_id!r} has {len(tensors)} tensors", field=f"{field}.plan_index"
            )
        activation = Activation(tensors[captured.plan_index])
        try:
            steps = _collect(entry, captured, activation)
        except FileNotFoundError:
            raise UnknownIdError(
                f"capture {captured.capture_id!r} has just been removed", field=f"{field}.capture_id"
            ) from None
        if not activation.rows:
            there = f"it was seen in the steps {_step_range(sorted(steps))} of that row" if steps else "not in that row"
            raise InvalidRequestError(
                f"capture {captured.capture_id!r} has no tensor {captured.plan_index} of step {captured.step} and row "
                f"{captured.row}; {there}",
                field=f"{field}.step" if steps else f"{field}.row",
            )
        array = activation.row(captured.row)
        array.flags.writeable = False
        return array


def _collect(entry: SpoolEntry, captured: tensor_pb2.CapturedTensor, activation: Activation) -> set[int]:
    """Feeds the pieces of the wanted tensor to an activation; the steps in which its row has any."""
    assert entry.plan is not None
    reader = FrameReader(entry.plan)
    steps: set[int] = set()
    for record in entry.records():
        if record.kind is not RecordKind.FRAME:
            continue
        event = _decode(record.payload)
        assert isinstance(event, Frame)
        for piece in reader.read(event):
            if (piece.spec.plan_index, piece.row) == (captured.plan_index, captured.row):
                steps.add(piece.step)
                if piece.step == captured.step:
                    activation.add(piece)
    return steps


def _step_range(steps: list[int]) -> str:
    return f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else str(steps[0])
