"""neuroscope.cli.processes.supervisor with small processes in the place of services."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuroscope.cli.processes.process import Service
from neuroscope.cli.processes.supervisor import Backoff, ProcessFailedError, Supervisor
from tests.support.patience import eventually

READY = 'print("dummy ready on 127.0.0.1:1", flush=True)'
SLEEP = "import time; time.sleep(600)"
QUICK = Backoff(first_pause_s=0.05, max_pause_s=0.1, max_restarts=3)


def python(*statements: str, name: str = "dummy", **settings) -> Service:
    return Service(name, [sys.executable, "-c", "\n".join(statements)], **settings)


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process_id}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_service_is_ready_when_it_says_so_and_gone_afterwards():
    lines: list[tuple[str, str]] = []
    with Supervisor(lambda name, line: lines.append((name, line))) as supervisor:
        address = supervisor.start(python('print("reading")', READY, SLEEP))
        assert address == "127.0.0.1:1"
        (process_id,) = supervisor.process_ids().values()
        assert alive(process_id)
        assert os.getpgid(process_id) == process_id
    assert not alive(process_id)
    assert lines == [("dummy", "reading"), ("dummy", "dummy ready on 127.0.0.1:1")]


def test_environment_reaches_the_service():
    with Supervisor() as supervisor:
        service = python(
            "import os", 'print("dummy ready on", os.environ["WHERE"])', SLEEP, environment={"WHERE": "here:7"}
        )
        assert supervisor.start(service) == "here:7"


def test_a_service_that_ends_before_it_is_ready_is_an_error_with_its_last_words():
    with Supervisor() as supervisor, pytest.raises(ProcessFailedError, match="ended with exit code 3") as failed:
        supervisor.start(python("import sys", 'print("no such model", file=sys.stderr)', "sys.exit(3)"))
    assert failed.value.tail == ("no such model",)


def test_a_service_that_is_not_ready_in_time_is_ended():
    with Supervisor() as supervisor:
        with pytest.raises(ProcessFailedError, match=r"not ready within 0\.3 s"):
            supervisor.start(python(SLEEP, ready_timeout_s=0.3))
        assert supervisor.process_ids() == {}


def test_a_service_that_dies_is_started_again():
    notice: list[str] = []
    with Supervisor(on_notice=notice.append, backoff=QUICK) as supervisor:
        supervisor.start(python(READY, SLEEP))
        (first,) = supervisor.process_ids().values()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: any("ready again on 127.0.0.1:1" in line for line in notice))
        (second,) = supervisor.process_ids().values()
        assert second != first
        assert notice[0] == "dummy was killed by SIGKILL; starting it again in 0.05 s"
    assert not alive(second)


def test_pauses_between_restarts_double_up_to_the_longest():
    backoff = Backoff(first_pause_s=0.5, max_pause_s=5)
    assert [backoff.pause_s(n) for n in range(5)] == [0.5, 1, 2, 4, 5]


def test_a_service_that_keeps_dying_is_given_up():
    with Supervisor(backoff=QUICK) as supervisor:
        supervisor.start(python(READY, "import time; time.sleep(0.1)", "raise SystemExit(9)"))
        with pytest.raises(ProcessFailedError, match="exit code 9 and did so again after 3 restarts"):
            supervisor.wait(20)


def test_without_restarts_a_death_ends_the_wait():
    with Supervisor(restarts=False) as supervisor:
        supervisor.start(python(READY, "import time; time.sleep(0.2)"))
        with pytest.raises(ProcessFailedError, match="ended with exit code 0"):
            supervisor.wait(20)
        with pytest.raises(ProcessFailedError):
            supervisor.raise_failure()


STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def test_a_service_that_ignores_sigterm_is_killed_after_the_grace_period():
    with Supervisor(grace_s=0.3) as supervisor:
        supervisor.start(python(STUBBORN, READY, SLEEP))
        (process_id,) = supervisor.process_ids().values()
        began_s = time.monotonic()
    assert 0.25 < time.monotonic() - began_s < 5
    assert not alive(process_id)


def test_what_a_service_started_goes_with_it():
    lines: list[str] = []
    parent = python(
        "import subprocess, sys",
        f"child = subprocess.Popen([sys.executable, '-c', {STUBBORN + '; ' + SLEEP!r}])",
        'print("child", child.pid, flush=True)',
        READY,
        SLEEP,
    )
    with Supervisor(lambda name, line: lines.append(line), grace_s=0.5) as supervisor:
        supervisor.start(parent)
        child = int(lines[0].split()[1])
        assert alive(child)
    assert not alive(child)


def test_several_services_are_logged_line_by_line():
    lines: list[tuple[str, str]] = []
    chatter = 'for i in range(200): print("line", i, flush=True)'
    with Supervisor(lambda name, line: lines.append((name, line))) as supervisor:
        for name in ("one", "two"):
            supervisor.start(python(f'print("{name} ready on here", flush=True)', chatter, SLEEP, name=name))
        eventually(lambda: len(lines) == 402)
    for name in ("one", "two"):
        assert [line for who, line in lines if who == name][1:] == [f"line {i}" for i in range(200)]


def test_it_works_outside_of_the_main_thread():
    addresses: list[str] = []

    def run() -> None:
        with Supervisor() as supervisor:
            addresses.append(supervisor.start(python(READY, SLEEP)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert addresses == ["127.0.0.1:1"]


SUPERVISING = textwrap.dedent("""
    import signal, sys
    from neuroscope.cli.processes.process import Service
    from neuroscope.cli.processes.supervisor import Supervisor
    signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))
    with Supervisor(grace_s=3) as supervisor:
        supervisor.start(Service("dummy", [sys.executable, "-c", sys.argv[2]]))
        print("pid", supervisor.process_ids()["dummy"], flush=True)
        supervisor.wait()
""")


@contextmanager
def supervising(hangups: str = "SIG_DFL") -> Generator[tuple[subprocess.Popen[str], int]]:
    """A process with a supervisor, which begins with this disposition of SIGHUP, and the process id of its service."""
    command = [sys.executable, "-c", SUPERVISING, hangups, f"{READY}\n{SLEEP}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        try:
            assert started.stdout is not None
            match = re.fullmatch(r"pid (\d+)\n", started.stdout.readline())
            assert match is not None
            yield started, int(match[1])
        finally:
            started.kill()


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_supervising_process_that_is_told_to_end_or_is_killed_leaves_nothing_running(
    number: signal.Signals, exit_code: int
):
    with supervising() as (process, service_id):
        assert alive(service_id)
        process.send_signal(number)
        assert process.wait(20) == exit_code
    eventually(lambda: not alive(service_id))


def test_under_nohup_it_outlives_its_terminal():
    with supervising("SIG_IGN") as (process, service_id):
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert alive(service_id)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    eventually(lambda: not alive(service_id))
