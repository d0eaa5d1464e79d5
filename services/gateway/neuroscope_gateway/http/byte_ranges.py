"""The Range header (RFC 9110, section 14) with one range of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SINGLE_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*")
PAST_END = 2**62
"""An offset past the end of any tensor."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A requested range of bytes.

    Attributes:
        offset_bytes: first byte; negative: from the end.
        length_bytes: number of bytes; 0: to the end.
    """

    offset_bytes: int
    length_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The bytes of a tensor that are sent.

    Attributes:
        first: first byte.
        count: number of bytes; 0: the range is past the end.
        total: size of the tensor.
    """

    first: int
    count: int
    total: int

    @classmethod
    def of(cls, part: ByteRange | None, total: int) -> ContentRange:
        """Resolves a range for a size in bytes; None: all bytes."""
        if part is None:
            return cls(0, total, total)
        first = max(total + part.offset_bytes, 0) if part.offset_bytes < 0 else min(part.offset_bytes, total)
        following = total - first
        return cls(first, min(part.length_bytes or following, following), total)


def parse(header: str | None) -> ByteRange | None:
    """Parses a header; None without a range, and for ranges that are ignored: several, malformed, other units."""
    match = _SINGLE_RANGE.fullmatch(header or "")
    if match is None or match[0].endswith("=-"):
        return None
    first, last = match[1], match[2]
    if not first:
        wanted = min(int(last), PAST_END)
        return ByteRange(-wanted) if wanted else ByteRange(PAST_END)
    if not last:
        return ByteRange(min(int(first), PAST_END))
    if int(last) < int(first):
        return None
    return ByteRange(min(int(first), PAST_END), min(int(last) - int(first) + 1, PAST_END))
