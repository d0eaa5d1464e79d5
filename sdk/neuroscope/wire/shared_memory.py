"""Payloads in shared memory, for a client and a service on one host.

    memory = SharedMemory.create(folder, 32 * 2**20)      the service creates a file and offers it in the plan
    region = memory.place(parts)                          copies a payload into it; None if there is no room
    mapped = MappedMemory.open(offer)                     the client maps the same pages
    view = mapped.view(region)                            the payload; its blocks are free when no view is left

The file is in a private folder and is removed as soon as the client has mapped it, so it does not outlive the two
processes. Both reuse it for later streams, since pages that exist cost nothing. It grows while the reader is behind,
and only by space that the file system has reserved: a write that the file system cannot hold would kill the process.
The layout is that of `SharedMemory` in tensor.proto.
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
"""Metadata of a client that can map the service's files. The value is the `region_id` of an unused mapping that it
has, or ANY."""
ANY = "1"
BLOCK_BYTES = 64 * 1024
SMALLEST_BYTES = 64 * 1024
"""Smaller payloads cost no more in the message itself."""
_MAGIC = b"neuroscope-shm-1"
_NONCE_AT = 32
_NONCE_BYTES = 32
_MAPPED_AT = 64
_IN_USE_AT = 4096
_GROWTH_BYTES = 1024 * 1024
LEAST_BYTES = 16 * BLOCK_BYTES
MOST_BYTES = (BLOCK_BYTES - _IN_USE_AT) * BLOCK_BYTES
"""The header has one byte for each block."""


class SharedMemory:
    """The service's side. For one stream at a time, and one thread.

    Attributes:
        offer: the message that tells the client how to map the file.
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
        """Creates a file in a private folder.

        Raises:
            OSError: the file system is full, or the folder is missing.
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
        """Bytes that the file occupies."""
        return self._reserved_bytes

    @property
    def is_mapped(self) -> bool:
        """Whether the client has mapped the file."""
        mapped = self._map[_MAPPED_AT] == 1
        if mapped and self._path is not None:
            self._unlink()
        return mapped

    def place(self, parts: Sequence[memoryview]) -> tensor_pb2.SharedRegion | None:
        """Copies a payload into free blocks; None if too few are free."""
        length = sum(part.nbytes for part in parts)
        blocks = -(-length // BLOCK_BYTES)
        last = _IN_USE_AT + self._most_bytes // BLOCK_BYTES
        # First fit: with a reader that keeps up, the same few pages are reused.
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
        """Frees the file. A client keeps the pages that it still views."""
        self._unlink()
        self._map.close()
        os.close(self._fd)

    def _reserve(self, end: int) -> None:
        """Reserves the file's blocks up to an offset.

        Raises:
            OSError: the file system is full.
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
    """The client's side. Thread-safe.

    Attributes:
        region_id: id of the service's file.
    """

    def __init__(self, offer: tensor_pb2.SharedMemory, mapped: mmap.mmap) -> None:
        self.region_id = offer.region_id
        self._block_bytes = offer.block_bytes
        self._map = mapped
        self._viewed_blocks = 0
        self._lock = threading.RLock()  # a finaliser may run while another one holds it, in the same thread

    @classmethod
    def open(cls, offer: tensor_pb2.SharedMemory) -> MappedMemory | None:
        """Maps the file that a service offers; None if the service is on another host or of another user."""
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
        """The share of the memory that is still viewed, from 0 to 1."""
        return self._viewed_blocks * self._block_bytes / len(self._map)

    def view(self, region: tensor_pb2.SharedRegion) -> memoryview:
        """A view of a payload. Its blocks are free again when the last view of it is gone.

        Raises:
            StreamingError: the region is outside of the memory.
        """
        offset, length = region.offset_bytes, region.length_bytes
        if (
            region.region_id != self.region_id
            or not length
            or offset < self._block_bytes
            or offset % self._block_bytes
            or offset + length > len(self._map)
        ):
            raise StreamingError(f"a frame refers to bytes {offset} to {offset + length} outside of the shared memory")
        first = _IN_USE_AT + offset // self._block_bytes
        blocks = -(-length // self._block_bytes)
        owner = np.frombuffer(self._map, np.uint8, length, offset)
        with self._lock:
            self._viewed_blocks += blocks
        weakref.finalize(owner, self._free, first, blocks).atexit = False
        return owner.data

    def _free(self, first: int, blocks: int) -> None:
        with self._lock:  # also orders the reads before the service sees the blocks as free
            self._map[first : first + blocks] = bytes(blocks)
            self._viewed_blocks -= blocks
