"""What another process uses, on Linux and macOS."""

import os
import subprocess
import sys
import time
from pathlib import Path

_PROC = Path("/proc")  # Linux


def resident_bytes(pid: int) -> int:
    """Memory it holds now."""
    if _PROC.is_dir():
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return int(_ps(pid, "rss")) * 1024


def forget_peak(pid: int) -> None:
    """Lets `peak_resident_bytes` begin anew; Linux alone has this."""
    if _PROC.is_dir():
        (_PROC / str(pid) / "clear_refs").write_text("5")  # proc_pid_clear_refs(5)


def peak_resident_bytes(pid: int) -> int | None:
    """The most memory that it held since `forget_peak`; None where the system does not say."""
    if not _PROC.is_dir():
        return None
    (line,) = (line for line in (_PROC / str(pid) / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """CPU time it has used, user and system."""
    if sys.platform == "linux":
        return time.clock_gettime(~pid << 3 | 2)  # the clock that clock_getcpuclockid(3) names
    days, _, clock = _ps(pid, "time").rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)


def _ps(pid: int, column: str) -> str:
    return subprocess.check_output(["ps", "-o", f"{column}=", "-p", str(pid)], text=True).strip()
