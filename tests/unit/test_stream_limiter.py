"""Who is admitted, and when.

python -m pytest tests/unit/test_stream_limiter.py
"""

from contextlib import ExitStack

import pytest

from neuroscope.errors import ResourceExhaustedError
from neuroscope_serving.peer import client_address
from neuroscope_serving.stream_limiter import StreamLimiter


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:127.0.0.1:50312", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50312", "[::1]"),
        ("ipv6:[fe80::1%25eth0]:1", "[fe80::1%eth0]"),
        ("unix:/run/neuroscope.sock", "unix"),
        ("unix:", "unix"),
    ],
)
def test_a_client_is_an_address_without_its_port(peer: str, client: str) -> None:
    assert client_address(peer) == client


def test_one_client_has_its_share_and_others_have_theirs() -> None:
    limiter = StreamLimiter(2, 3)
    with ExitStack() as streams:
        streams.enter_context(limiter.acquire("a"))
        last = streams.enter_context(ExitStack())
        last.enter_context(limiter.acquire("a"))
        with (
            pytest.raises(ResourceExhaustedError, match=r"2 streams of a .* max_streams_per_client "),
            limiter.acquire("a"),
        ):
            pass
        streams.enter_context(limiter.acquire("b"))
        with pytest.raises(ResourceExhaustedError, match=r"3 streams .* max_streams "), limiter.acquire("c"):
            pass
        assert limiter.running == 3
        last.close()
        streams.enter_context(limiter.acquire("c"))
    assert limiter.running == 0


def test_a_stream_that_fails_gives_its_place_back() -> None:
    limiter = StreamLimiter(1, 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limiter.acquire("a"):
            raise ZeroDivisionError
    assert limiter.running == 0
