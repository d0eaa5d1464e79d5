"""The file of a kept stream: records one after another, each with a checksum, so that a torn tail is recognised.

    file    = "NSSPOOL1" record*
    record  = length:u32 kind:u32 xxh3_64:u64 payload        little-endian; the checksum's seed is length and kind

The first record is the header, in JSON; the payloads of all others are messages of the stream exactly as they are sent.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

import xxhash

MAGIC = b"NSSPOOL1"
_HEAD = struct.Struct("<IIQ")
RECORD_HEAD_BYTES = _HEAD.size


class RecordKind(IntEnum):
    """What a record holds."""

    HEADER = 1
    STARTED = 2
    PLAN = 3
    TOKEN = 4
    FRAME = 5
    MANIFEST = 6


class TruncatedFileError(Exception):
    """A file ends within a record, or a record is not what was written."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record, and where it ends in its file."""

    kind: RecordKind
    payload: bytes
    end: int


class RecordWriter:
    """Appends records to a new file that only its owner can read.

    Raises (from every method):
        OSError: the disk is full, or fails.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._write(MAGIC)

    def append(self, kind: RecordKind, payload: bytes) -> None:
        """Writes a record; it is in the kernel's hands when this returns, and survives the end of the process."""
        self._write(_HEAD.pack(len(payload), kind, _checksum(kind, payload)), payload)

    def sync(self) -> None:
        """Waits until everything is on the disk itself."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)

    def _write(self, *parts: bytes) -> None:
        left = [memoryview(part) for part in parts if part]
        while left:
            written = os.writev(self._fd, left)
            while left and written >= left[0].nbytes:
                written -= left.pop(0).nbytes
            if written:
                left[0] = left[0][written:]


def read_records(file: BinaryIO, *, skips_frames_before: int = 0) -> Iterator[Record]:
    """The records of a file from its beginning.

    Args:
        file: an open file.
        skips_frames_before: frames before this one, by number, and tokens that precede them are passed over unread.

    Raises:
        TruncatedFileError: the file is not whole from here on.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise TruncatedFileError("the file does not begin as a kept stream does")
    frames = 0
    while head := file.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise TruncatedFileError("the file ends within a record")
        length, number, checksum = _HEAD.unpack(head)
        try:
            kind = RecordKind(number)
        except ValueError:
            raise TruncatedFileError(f"a record is of no known kind, {number}") from None
        if frames < skips_frames_before and kind in (RecordKind.FRAME, RecordKind.TOKEN):
            frames += kind is RecordKind.FRAME
            file.seek(length, os.SEEK_CUR)
            continue
        payload = file.read(length)
        if len(payload) < length:
            raise TruncatedFileError("the file ends within a record")
        if _checksum(kind, payload) != checksum:
            raise TruncatedFileError("the bytes of a record were changed")
        yield Record(kind, payload, file.tell())


def _checksum(kind: int, payload: bytes) -> int:
    return xxhash.xxh3_64_intdigest(payload, seed=kind << 32 | len(payload))
