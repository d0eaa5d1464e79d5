"""Who is admitted, and when.

python -m pytest tests/unit/test_admission.py
"""

from contextlib import ExitStack

import pytest

from neuroscope.errors import ResourceExhaustedError
from neuroscope_serving.admission import Admission, client_of


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
    assert client_of(peer) == client


def test_one_client_has_its_share_and_others_have_theirs() -> None:
    admission = Admission(2, 3)
    with ExitStack() as streams:
        streams.enter_context(admission.admit("a"))
        last = streams.enter_context(ExitStack())
        last.enter_context(admission.admit("a"))
        with (
            pytest.raises(ResourceExhaustedError, match=r"2 streams of a .* max_streams_per_client "),
            admission.admit("a"),
        ):
            pass
        streams.enter_context(admission.admit("b"))
        with pytest.raises(ResourceExhaustedError, match=r"3 streams .* max_streams "), admission.admit("c"):
            pass
        assert admission.running == 3
        last.close()
        streams.enter_context(admission.admit("c"))
    assert admission.running == 0


def test_a_stream_that_fails_gives_its_place_back() -> None:
    admission = Admission(1, 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.admit("a"):
            raise ZeroDivisionError
    assert admission.running == 0
