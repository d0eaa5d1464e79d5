"""The Range header (RFC 9110, section 14): one range of bytes, or none that is understood."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SINGLE_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*")
PAST_END = 2**62
"""An offset that no tensor reaches."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes that are wanted.

    Attributes:
        offset_bytes: the first; negative: counted from the end.
        length_bytes: how many; 0: all from there on.
    """

    offset_bytes: int
    length_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Bytes that are sent of a tensor.

    Attributes:
        first: the first.
        count: how many; 0: the range has none of them.
        total: bytes of the tensor.
    """

    first: int
    count: int
    total: int

    @classmethod
    def of(cls, part: ByteRange | None, total: int) -> ContentRange:
        """What a range is of so many bytes; None: all of them."""
        if part is None:
            return cls(0, total, total)
        first = max(total + part.offset_bytes, 0) if part.offset_bytes < 0 else min(part.offset_bytes, total)
        following = total - first
        return cls(first, min(part.length_bytes or following, following), total)


def parse(header: str | None) -> ByteRange | None:
    """The range of a header; None where there is none, or one that may be ignored: several, malformed, other units."""
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
