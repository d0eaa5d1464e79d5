"""The folder of kept streams: who may have which id, how many bytes all take, and when each one goes."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from neuroscope.errors import (
    IdTakenError,
    InvalidRequestError,
    ResourceExhaustedError,
    UnknownIdError,
    nearest,
)
from neuroscope_inference.spool.entry import SpoolEntry, StreamHeader
from neuroscope_inference.spool.records import RECORD_HEAD_BYTES, RecordKind, TruncatedFileError

_log = logging.getLogger(__name__)
MAX_ID_CHARACTERS = 256
_EXPIRY_INTERVAL_S = 30.0


class Spool:
    """Keeps streams within a byte budget and a time to live. Methods may be called from any thread, and block.

    The folder belongs to one service at a time; it is made, for its owner alone, when the first stream is kept. When
    the budget is spent the oldest streams go first, however long they were to live.

    Args:
        folder: where the files are.
        max_bytes: all files together.
        ttl_seconds: how long a stream is kept after it was last written to.
        clock: Unix time in seconds.
    """

    def __init__(
        self, folder: Path, max_bytes: int, ttl_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._ttl_s = ttl_seconds
        self._clock = clock
        self._entries: dict[str, SpoolEntry] = {}  # oldest attempt first
        self._lock = threading.RLock()
        self._lock_fd: int | None = None
        self._closing = threading.Event()
        self._expirer: threading.Thread | None = None
        if folder.is_dir():
            with contextlib.suppress(ResourceExhaustedError):  # whoever keeps a stream is told
                self._open()

    def begin(self, header: StreamHeader) -> SpoolEntry:
        """Starts to keep a stream; one of that id that broke off is replaced.

        Raises:
            IdTakenError: a stream of that id is running, or kept.
            InvalidRequestError: the id is too long.
            ResourceExhaustedError: the folder is another service's, or cannot be written to.
        """
        if len(header.capture_id) > MAX_ID_CHARACTERS:
            raise InvalidRequestError(f"an id has at most {MAX_ID_CHARACTERS} characters", field="capture_id")
        with self._lock, _translate_os_errors():
            self._open()
            self._expire()
            earlier = self._entries.get(header.capture_id)
            if earlier is not None and earlier.state != "broken":
                raise IdTakenError(f"capture {header.capture_id!r} is {earlier.state}", field="capture_id")
            if earlier is not None:
                header = replace(header, attempt=earlier.header.attempt + 1)
            entry = SpoolEntry.create(self._folder, header, self._clock())
            if earlier is not None:
                earlier.remove()
                del self._entries[header.capture_id]
            self._entries[header.capture_id] = entry
            return entry

    def append(self, entry: SpoolEntry, kind: RecordKind, payload: bytes) -> None:
        """Writes a message of a stream; the manifest makes it whole.

        Raises:
            ResourceExhaustedError: the budget has no room, even without all older streams; or the disk has none.
        """
        with _translate_os_errors():
            self._make_room(entry, RECORD_HEAD_BYTES + len(payload))
            entry.append(kind, payload, self._clock())
            if kind is RecordKind.MANIFEST:
                entry.commit()

    def abort(self, entry: SpoolEntry) -> None:
        """The stream will not go on: keeps what it takes to run it again."""
        try:
            entry.abort()
        except OSError:
            _log.exception("kept stream %r could not be cut down", entry.header.capture_id)
            with self._lock:
                self._remove(entry)

    def find(self, capture_id: str) -> SpoolEntry | None:
        """The stream of an id, if there is one."""
        with self._lock:
            self._expire()
            return self._entries.get(capture_id)

    def get(self, capture_id: str, field: str = "capture_id") -> SpoolEntry:
        """The stream of an id.

        Raises:
            UnknownIdError: there is none, or no longer; names those most like it.
        """
        entry = self.find(capture_id)
        if entry is None:
            valid = nearest(capture_id, [entry.header.capture_id for entry in self.entries()])
            there = f"kept: {', '.join(valid)}" if valid else "none is kept"
            raise UnknownIdError(f"no capture {capture_id!r} is kept; {there}", field=field, valid=valid)
        return entry

    def entries(self) -> list[SpoolEntry]:
        """Every stream, oldest first."""
        with self._lock:
            self._expire()
            return list(self._entries.values())

    def expires_at_s(self, entry: SpoolEntry) -> float:
        """When a stream goes, Unix time."""
        return entry.touched_at_s + self._ttl_s

    def delete(self, capture_id: str) -> None:
        """Removes a stream.

        Raises:
            UnknownIdError: there is none of that id.
            InvalidRequestError: it is still being written.
        """
        with self._lock:
            entry = self.get(capture_id)
            if entry.state == "running":
                raise InvalidRequestError(
                    f"capture {capture_id!r} is still running; cancel its stream first", field="capture_id"
                )
            self._remove(entry)

    def close(self) -> None:
        """Breaks off what is being written, and leaves the folder to others."""
        self._closing.set()
        if self._expirer is not None:
            self._expirer.join()
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.state == "running":
                    self.abort(entry)
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    # The folder.

    def _open(self) -> None:
        """Makes the folder this service's own, once, and takes in what an earlier one left.

        Raises:
            ResourceExhaustedError: another service has it, or it cannot be made.
        """
        if self._lock_fd is not None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            lock_fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ResourceExhaustedError(
                f"streams cannot be kept in {self._folder}: {error.strerror}; choose another spool_dir",
                field="resumable",
            ) from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_fd)
            raise ResourceExhaustedError(
                f"the spool {self._folder} is another running service's; give each its own spool_dir",
                field="resumable",
            ) from None
        self._lock_fd = lock_fd
        self._recover()
        self._expirer = threading.Thread(target=self._expire_periodically, name="neuroscope-spool", daemon=True)
        self._expirer.start()

    def _recover(self) -> None:
        found: list[SpoolEntry] = []
        for path in self._folder.iterdir():
            if path.suffix not in (".running", ".committed", ".broken"):
                continue
            try:
                found.append(SpoolEntry.recover(path))
            except (TruncatedFileError, OSError) as error:
                _log.warning("removed %s, which cannot be read: %s", path, error)
                path.unlink(missing_ok=True)
        for entry in sorted(found, key=lambda entry: entry.touched_at_s):
            twin = self._entries.get(entry.header.capture_id)
            if twin is None:
                self._entries[entry.header.capture_id] = entry
            elif entry.state == "committed":  # a new attempt came to its end just before the old one was removed
                self._remove(twin)
                self._entries[entry.header.capture_id] = entry
            else:
                entry.remove()
        broken = sum(entry.state == "broken" for entry in self._entries.values())
        _log.info("%s keeps %d streams, %d of them broken off", self._folder, len(self._entries), broken)
        self._expire()

    # Time and bytes.

    def _expire(self) -> None:
        now = self._clock()
        for entry in list(self._entries.values()):
            if entry.state != "running" and self.expires_at_s(entry) <= now:
                self._remove(entry)

    def _expire_periodically(self) -> None:
        while not self._closing.wait(min(_EXPIRY_INTERVAL_S, self._ttl_s)):
            with self._lock:
                self._expire()

    def _make_room(self, entry: SpoolEntry, nbytes: int) -> None:
        with self._lock:
            held = sum(other.nbytes for other in self._entries.values())
            if held + nbytes <= self._max_bytes:
                return
            self._expire()
            others = [other for other in self._entries.values() if other.state != "running"]
            held = sum(other.nbytes for other in self._entries.values())
            if held - sum(other.nbytes for other in others) + nbytes > self._max_bytes:
                raise ResourceExhaustedError(
                    f"capture {entry.header.capture_id!r} does not fit: kept streams may take {self._max_bytes} bytes "
                    f"(spool_max_bytes), and {entry.nbytes} of it were written; capture less, or without resumable",
                    field="resumable",
                )
            for oldest in others:
                if held + nbytes <= self._max_bytes:
                    return
                held -= oldest.nbytes
                _log.info("kept stream %r makes room", oldest.header.capture_id)
                self._remove(oldest)

    def _remove(self, entry: SpoolEntry) -> None:
        if self._entries.get(entry.header.capture_id) is entry:
            del self._entries[entry.header.capture_id]
        try:
            entry.remove()
        except OSError:
            _log.exception("%s could not be removed", entry.path)


@contextmanager
def _translate_os_errors() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceExhaustedError(
            f"the stream cannot be kept: {error.strerror or error}; free space, or ask without resumable",
            field="resumable",
        ) from error
