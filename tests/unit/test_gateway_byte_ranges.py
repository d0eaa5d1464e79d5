"""The Range header.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_byte_ranges.py"""

import pytest

from neuroscope_gateway.http.byte_ranges import PAST_END, ByteRange, parse


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=4-11", ByteRange(4, 8)),
        ("bytes= 4-11 ", ByteRange(4, 8)),
        ("bytes=100-", ByteRange(100)),
        ("bytes=-16", ByteRange(-16)),
        ("bytes=-0", ByteRange(PAST_END)),  # the last 0 bytes: not satisfiable
        ("bytes=99999999999999999999999-", ByteRange(PAST_END)),
        ("bytes=0-99999999999999999999999", ByteRange(0, PAST_END)),
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=5-2", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
    ],
)
def test_one_range_or_none(header: str | None, expected: ByteRange | None) -> None:
    assert parse(header) == expected
