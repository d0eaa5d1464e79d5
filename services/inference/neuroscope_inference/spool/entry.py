"""One kept stream: its header, its state, and its file, which is renamed as the state changes.

<name>.running     frames are being written
<name>.committed   the manifest is on the disk; nothing is written any more
<name>.broken      the header alone: enough to run the request again
"""

from __future__ import annotations

import json
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import xxhash
from google.protobuf.message import DecodeError

from neuroscope.errors import ChecksumError, ResourceExhaustedError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope_inference.spool.records import (
    MAGIC,
    RECORD_HEAD_BYTES,
    Record,
    RecordKind,
    RecordWriter,
    TruncatedFileError,
)
from neuroscope_inference.spool.records import read_records as _read

State: TypeAlias = Literal["running", "committed", "broken"]
StreamRequest: TypeAlias = "pb.CaptureRequest | pb.GenerateRequest"

_REQUESTS: dict[str, type[pb.CaptureRequest] | type[pb.GenerateRequest]] = {
    cls.DESCRIPTOR.name: cls for cls in (pb.CaptureRequest, pb.GenerateRequest)
}


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """What a stream is of.

    Attributes:
        capture_id: its id.
        request: what was asked for, with the model and the stored hooks that it meant at the time.
        seed: of a generation's draws.
        attempt: 1, and one more each time that it is run again.
    """

    capture_id: str
    request: StreamRequest
    seed: int = 0
    attempt: int = 1

    @property
    def restart_token(self) -> str:
        """Names this attempt, for running the request again when it has broken off."""
        return xxhash.xxh3_128_hexdigest(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The payload of the header's record."""
        described = {
            "capture_id": self.capture_id,
            "attempt": self.attempt,
            "seed": self.seed,
            "kind": self.request.DESCRIPTOR.name,
            "request": b64encode(self.request.SerializeToString(deterministic=True)).decode(),
        }
        return json.dumps(described).encode()

    @classmethod
    def from_bytes(cls, payload: bytes) -> StreamHeader:
        """What `to_bytes` wrote.

        Raises:
            TruncatedFileError: it did not.
        """
        try:
            described = json.loads(payload)
            request = _REQUESTS[described["kind"]].FromString(b64decode(described["request"]))
            return cls(described["capture_id"], request, described["seed"], described["attempt"])
        except (ValueError, KeyError, TypeError, DecodeError) as error:
            raise TruncatedFileError(f"the header cannot be read: {error!r}") from None


@dataclass(slots=True)
class SpoolEntry:
    """A kept stream and its file.

    Attributes:
        header: what it is of.
        path: its file, as it is called in this state.
        state: whether it is being written, whole, or broken off.
        nbytes: size of the file.
        touched_at_s: when it was last written to, Unix time; its time to live counts from there.
        plan: what it holds; None where nothing was captured, or it broke off.
        manifest: the account of a whole one.
    """

    header: StreamHeader
    path: Path
    state: State
    nbytes: int = 0
    touched_at_s: float = 0.0
    plan: tensor_pb2.TensorPlan | None = None
    manifest: pb.Manifest | None = None
    _writer: RecordWriter | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def create(cls, folder: Path, header: StreamHeader, now_s: float) -> SpoolEntry:
        """A new file with its header. An older attempt's remains are replaced.

        Raises:
            OSError: the disk is full, or fails.
        """
        path = folder / f"{file_stem(header.capture_id)}.running"
        path.unlink(missing_ok=True)
        payload = header.to_bytes()
        writer = RecordWriter(path)
        try:
            writer.append(RecordKind.HEADER, payload)
        except OSError:
            writer.close()
            path.unlink()
            raise
        return cls(header, path, "running", _size(payload), now_s, _writer=writer)

    @classmethod
    def recover(cls, path: Path) -> SpoolEntry:
        """The stream of a file that an earlier process left, in the state in which it is now.

        What was still being written, or is not whole, is cut down to its header.

        Raises:
            TruncatedFileError: not even the header can be read.
            OSError: the disk fails.
        """
        written = path.stat()
        with path.open("rb") as file:
            first = next(_read(file), None)
        if first is None or first.kind is not RecordKind.HEADER:
            raise TruncatedFileError("the file has no header")
        header = StreamHeader.from_bytes(first.payload)
        entry = cls(header, path, "running", written.st_size, written.st_mtime)
        if path.suffix == ".committed" and entry._read_plan_and_manifest():
            entry.state = "committed"
        else:
            entry.abort()
            os.utime(entry.path, (written.st_atime, written.st_mtime))
        return entry

    def append(self, kind: RecordKind, payload: bytes, now_s: float) -> None:
        """Writes a message of the stream.

        Raises:
            OSError: the disk is full, or fails.
            ResourceExhaustedError: the stream has been broken off meanwhile.
        """
        with self._lock:
            if self._writer is None:
                raise ResourceExhaustedError("the stream is no longer kept", field="resumable")
            self._writer.append(kind, payload)
            self.nbytes += RECORD_HEAD_BYTES + len(payload)
            self.touched_at_s = now_s
            if kind is RecordKind.PLAN:
                self.plan = pb.ResumeCaptureResponse.FromString(payload).plan
            elif kind is RecordKind.MANIFEST:
                self.manifest = pb.ResumeCaptureResponse.FromString(payload).manifest

    def commit(self) -> None:
        """Waits until the whole stream is on the disk, and gives the file the name that says so.

        Raises:
            OSError: the disk fails.
        """
        with self._lock:
            if self._writer is None:
                raise ResourceExhaustedError("the stream is no longer kept", field="resumable")
            self._writer.sync()
            self._writer.close()
            self._writer = None
            self._rename("committed")
            _sync_folder(self.path.parent)

    def abort(self) -> None:
        """Keeps the header alone, unless the stream is whole."""
        with self._lock:
            if self.state == "committed":
                return
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self.nbytes = _size(self.header.to_bytes())
            self.plan = self.manifest = None
            os.truncate(self.path, self.nbytes)
            self._rename("broken")

    def remove(self) -> None:
        """Deletes the file. Whoever reads it at the moment reads on."""
        with self._lock:
            self.path.unlink(missing_ok=True)

    def records(self, sequence: int = 0) -> Iterator[Record]:
        """The stream's messages: all that precede the frames, then what follows the frame before `sequence`.

        Raises:
            ChecksumError: the file is no longer what was written.
            FileNotFoundError: it has been removed.
        """
        try:
            with self.path.open("rb") as file:
                yield from (r for r in _read(file, skips_frames_before=sequence) if r.kind is not RecordKind.HEADER)
        except TruncatedFileError as error:
            raise ChecksumError(f"capture {self.header.capture_id!r} is damaged on the disk: {error}") from None

    def _read_plan_and_manifest(self) -> bool:
        """Takes plan and manifest from the file; False if it does not end with a manifest."""
        last: Record | None = None
        try:
            with self.path.open("rb") as file:
                for last in _read(file, skips_frames_before=2**63):
                    if last.kind is RecordKind.PLAN:
                        self.plan = pb.ResumeCaptureResponse.FromString(last.payload).plan
        except (TruncatedFileError, DecodeError):
            return False
        if last is None or last.kind is not RecordKind.MANIFEST or last.end != self.nbytes:
            return False
        self.manifest = pb.ResumeCaptureResponse.FromString(last.payload).manifest
        return True

    def _rename(self, state: State) -> None:
        self.path = self.path.rename(self.path.with_suffix(f".{state}"))
        self.state = state


def file_stem(capture_id: str) -> str:
    """A name that every file system takes, whatever a client calls its capture."""
    return xxhash.xxh3_128_hexdigest(capture_id.encode())


def _size(header: bytes) -> int:
    return len(MAGIC) + RECORD_HEAD_BYTES + len(header)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
