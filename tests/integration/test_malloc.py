"""neuroscope_serving.malloc: freed blocks are kept, where the C library lets us say so."""

import platform
import subprocess
import sys

import pytest

from neuroscope_serving import malloc

FAULTS = """
import resource, sys
from neuroscope_serving.malloc import keep_large_blocks
if sys.argv[1] == "keep":
    assert keep_large_blocks()
bytes(4 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    b"x" * (1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc maps every large block anew")
def test_messages_fault_in_no_new_pages():
    faults = subprocess.run([sys.executable, "-c", FAULTS, "keep"], capture_output=True, text=True, check=True).stdout
    assert int(faults) < 1000  # 25,600 where every block is mapped anew


@pytest.mark.parametrize("libc", [object(), None])
def test_elsewhere_it_does_nothing(monkeypatch, libc):
    if libc is None:
        monkeypatch.setattr(malloc.sys, "platform", "darwin")
    else:
        monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: libc)
    assert malloc.keep_large_blocks() is False
