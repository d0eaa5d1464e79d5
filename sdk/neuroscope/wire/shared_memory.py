"""Payloads through memory that client and service share, where both run on one host.

    memory = SharedMemory.create(folder, 32 * 2**20)      the service: a file, offered to the client in the plan
    region = memory.place(parts)                          a copy of a payload; None where there is no room
    mapped = MappedMemory.open(offer)                     the client: the same pages
    view = mapped.view(region)                            the payload; its blocks are free again when no view is left

The file lies in a private folder and is removed as soon as the client has mapped it, so nothing of it survives the two
processes. Both may keep it for a stream to come: pages that are there already cost nothing again. It grows as the
reader falls behind, and only by what the file system has promised: a write into a mapped file that its file system
cannot hold would kill the process. The layout is that of `SharedMemory` in tensor.proto.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import stat
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuroscope.errors import StreamingError
from neuroscope.v1 import tensor_pb2

METADATA_KEY = "neuroscope-shared-memory"
"""A client that sends this can map a file of the service's, if it finds one. The value is the `region_id` of what it
has mapped already and does not use, or ANY."""
ANY = "1"
BLOCK_BYTES = 64 * 1024
SMALLEST_BYTES = 64 * 1024
"""Smaller payloads are as cheap in the message itself."""
_MAGIC = b"neuroscope-shm-1"
_NONCE_AT = 32
_NONCE_BYTES = 32
_MAPPED_AT = 64
_IN_USE_AT = 4096
_GROWTH_BYTES = 1024 * 1024
LEAST_BYTES = 16 * BLOCK_BYTES
MOST_BYTES = (BLOCK_BYTES - _IN_USE_AT) * BLOCK_BYTES
"""The head has a byte for each block."""


class SharedMemory:
    """The service's end. For one stream at a time, and one thread.

    Attributes:
        offer: what the client needs to map it.
    """

    def __init__(self, path: Path, fd: int, length_bytes: int) -> None:
        self.offer = tensor_pb2.SharedMemory(
            region_id=path.name,
            path=str(path),
            nonce=secrets.token_bytes(_NONCE_BYTES),
            length_bytes=length_bytes,
            block_bytes=BLOCK_BYTES,
        )
        self._path: Path | None = path
        self._fd = fd
        self._reserved_bytes = 0
        self._most_bytes = length_bytes
        self._reserve(BLOCK_BYTES)
        self._map = mmap.mmap(fd, length_bytes)
        self._map[: len(_MAGIC)] = _MAGIC
        self._map[_NONCE_AT : _NONCE_AT + _NONCE_BYTES] = self.offer.nonce

    @classmethod
    def create(cls, folder: Path, length_bytes: int) -> SharedMemory:
        """A new file in a folder of the service's own.

        Raises:
            OSError: the file system has no room, or the folder is gone.
        """
        length_bytes = max(LEAST_BYTES, min(length_bytes, MOST_BYTES)) // BLOCK_BYTES * BLOCK_BYTES
        path = folder / secrets.token_hex(16)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, length_bytes)
            return cls(path, fd, length_bytes)
        except BaseException:
            os.close(fd)
            path.unlink()
            raise

    @property
    def held_bytes(self) -> int:
        """What the file takes."""
        return self._reserved_bytes

    @property
    def is_mapped(self) -> bool:
        """Whether the client has it too."""
        mapped = self._map[_MAPPED_AT] == 1
        if mapped and self._path is not None:
            self._unlink()
        return mapped

    def place(self, parts: Sequence[memoryview]) -> tensor_pb2.SharedRegion | None:
        """Copies a payload into free blocks; None while the reader has left too few."""
        length = sum(part.nbytes for part in parts)
        blocks = -(-length // BLOCK_BYTES)
        last = _IN_USE_AT + self._most_bytes // BLOCK_BYTES
        # The first that are free: with a reader that keeps up, the same few pages again and again.
        found = self._map.find(bytes(blocks), _IN_USE_AT + 1, last)
        if found < 0:
            return None
        offset = (found - _IN_USE_AT) * BLOCK_BYTES
        end = offset + blocks * BLOCK_BYTES
        if end > self._reserved_bytes:
            try:
                self._reserve(min(end + _GROWTH_BYTES, self._most_bytes))
            except OSError:
                self._most_bytes = self._reserved_bytes
                return None
        self._map[found : found + blocks] = b"\1" * blocks
        start = offset
        for part in parts:
            self._map[start : start + part.nbytes] = part
            start += part.nbytes
        return tensor_pb2.SharedRegion(region_id=self.offer.region_id, offset_bytes=offset, length_bytes=length)

    def close(self) -> None:
        """Frees it; a client that still looks at it keeps its pages."""
        self._unlink()
        self._map.close()
        os.close(self._fd)

    def _reserve(self, end: int) -> None:
        """Makes the file system hold the file up to there.

        Raises:
            OSError: it cannot.
        """
        start, length = self._reserved_bytes, end - self._reserved_bytes
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, start, length)
        else:  # macOS
            os.pwrite(self._fd, bytes(length), start)
        self._reserved_bytes = end

    def _unlink(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


class MappedMemory:
    """The client's end. Thread-safe.

    Attributes:
        region_id: of what the service offered.
    """

    def __init__(self, offer: tensor_pb2.SharedMemory, mapped: mmap.mmap) -> None:
        self.region_id = offer.region_id
        self._block_bytes = offer.block_bytes
        self._map = mapped
        self._viewed_blocks = 0
        self._lock = threading.RLock()  # a view may die while another is let go of, in the same thread

    @classmethod
    def open(cls, offer: tensor_pb2.SharedMemory) -> MappedMemory | None:
        """Maps what a service offers; None where it is on another host, or of another user."""
        try:
            fd = os.open(offer.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            return None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != offer.length_bytes or not offer.block_bytes:
                return None
            if os.pread(fd, len(_MAGIC), 0) != _MAGIC or os.pread(fd, _NONCE_BYTES, _NONCE_AT) != offer.nonce:
                return None
            mapped = mmap.mmap(fd, found.st_size)
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        mapped[_MAPPED_AT] = 1
        with contextlib.suppress(OSError):  # the service removes it too
            Path(offer.path).unlink()
        return cls(offer, mapped)

    @property
    def viewed(self) -> float:
        """The part of it that views are left of, from 0 to 1."""
        return self._viewed_blocks * self._block_bytes / len(self._map)

    def view(self, region: tensor_pb2.SharedRegion) -> memoryview:
        """A payload where it lies. Its blocks go back to the service when the last view of it is gone.

        Raises:
            StreamingError: the region lies outside of the memory.
        """
        offset, length = region.offset_bytes, region.length_bytes
        if (
            region.region_id != self.region_id
            or not length
            or offset < self._block_bytes
            or offset % self._block_bytes
            or offset + length > len(self._map)
        ):
            raise StreamingError(f"a frame refers to bytes {offset} to {offset + length}, which are not shared")
        first = _IN_USE_AT + offset // self._block_bytes
        blocks = -(-length // self._block_bytes)
        owner = np.frombuffer(self._map, np.uint8, length, offset)
        with self._lock:
            self._viewed_blocks += blocks
        weakref.finalize(owner, self._free, first, blocks).atexit = False
        return owner.data

    def _free(self, first: int, blocks: int) -> None:
        with self._lock:  # also: what was read has been read before the service sees that it may write
            self._map[first : first + blocks] = bytes(blocks)
            self._viewed_blocks -= blocks
