"""The spool: states, torn files, the budget, times, and what a process that was killed leaves behind.

python -m pytest tests/unit/test_spool.py
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuroscope.errors import (
    ChecksumError,
    IdTakenError,
    InvalidRequestError,
    ResourceExhaustedError,
    UnknownIdError,
)
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope_inference.spool import records
from neuroscope_inference.spool.entry import SpoolEntry, StreamHeader, file_stem
from neuroscope_inference.spool.records import RecordKind
from neuroscope_inference.spool.spool import Spool

TTL_S = 60.0
STARTED = pb.CaptureResponse(started=pb.StreamStarted(stream_id="a")).SerializeToString()
PLAN = pb.CaptureResponse(plan=tensor_pb2.TensorPlan(chunk_positions=7)).SerializeToString()
TOKEN = pb.GenerateResponse(token=pb.TokenEvent(token_id=5)).SerializeToString()
MANIFEST = pb.CaptureResponse(manifest=pb.Manifest(frame_count=2)).SerializeToString()
FRAMES = (b"first frame", b"second frame")
STREAM = [
    (RecordKind.STARTED, STARTED),
    (RecordKind.PLAN, PLAN),
    (RecordKind.FRAME, FRAMES[0]),
    (RecordKind.TOKEN, TOKEN),
    (RecordKind.FRAME, FRAMES[1]),
    (RecordKind.TOKEN, TOKEN),
    (RecordKind.MANIFEST, MANIFEST),
]


class Clock:
    """Unix time that a test moves."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        import time

        return time.time() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path, clock: Clock) -> Iterator[Spool]:
    opened = Spool(folder, 100_000, TTL_S, clock)
    yield opened
    opened.close()


def header(capture_id: str = "a", **fields: Any) -> StreamHeader:
    return StreamHeader(capture_id, pb.CaptureRequest(model_id="llama", **fields))


def keep(spool: Spool, capture_id: str = "a", *, until: int | None = None, size: int = 0) -> SpoolEntry:
    entry = spool.begin(header(capture_id))
    for kind, payload in STREAM[:until]:
        spool.append(entry, kind, payload + bytes(size) if kind is RecordKind.FRAME else payload)
    return entry


def payloads(entry: SpoolEntry, sequence: int = 0) -> list[tuple[RecordKind, bytes]]:
    return [(record.kind, record.payload) for record in entry.records(sequence)]


def reopened(spool: Spool, folder: Path, clock: Clock) -> Spool:
    """As if the process had been killed: nothing is closed in order, only the lock is gone."""
    assert spool._lock_fd is not None
    os.close(spool._lock_fd)
    spool._lock_fd = None
    return Spool(folder, 100_000, TTL_S, clock)


# ------------------------------------------------------------------------------------------------ one stream


def test_a_whole_stream_comes_back_byte_for_byte(spool: Spool) -> None:
    entry = keep(spool)
    assert entry.state == "committed"
    assert payloads(entry) == STREAM
    assert entry.plan is not None
    assert entry.plan.chunk_positions == 7
    assert entry.manifest is not None
    assert entry.manifest.frame_count == 2


@pytest.mark.parametrize(("sequence", "omitted"), [(0, 0), (1, 1), (2, 3)])
def test_from_a_frame_on_comes_what_follows_the_frame_before_it(spool: Spool, sequence: int, omitted: int) -> None:
    assert payloads(keep(spool), sequence) == STREAM[:2] + STREAM[2 + omitted :]


def test_files_are_their_owners_alone(spool: Spool, folder: Path) -> None:
    os.umask(os.umask(0))
    entry = keep(spool)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert entry.path.stat().st_size == entry.nbytes


def test_no_folder_is_made_before_something_is_kept(spool: Spool, folder: Path) -> None:
    assert spool.entries() == []
    assert not folder.exists()


def test_an_id_may_be_any_text(spool: Spool, folder: Path) -> None:
    for capture_id in ("../../etc/passwd", "ключ/🔑", "a" * 256, "nul\0"):
        assert payloads(keep(spool, capture_id)) == STREAM
    assert all(path.parent == folder for path in folder.rglob("*"))
    with pytest.raises(InvalidRequestError, match="at most 256"):
        spool.begin(header("a" * 257))


def test_an_id_is_taken_until_its_stream_breaks_off(spool: Spool) -> None:
    entry = keep(spool, until=3)
    with pytest.raises(IdTakenError, match="running"):
        spool.begin(header())
    with pytest.raises(InvalidRequestError, match="still running"):
        spool.delete("a")
    token = entry.header.restart_token
    spool.abort(entry)
    again = keep(spool)
    assert again.header.attempt == 2
    assert again.header.restart_token != token
    with pytest.raises(IdTakenError, match="committed"):
        spool.begin(header())
    assert [found.state for found in spool.entries()] == ["committed"]


def test_what_broke_off_keeps_its_request_and_gives_its_bytes_back(spool: Spool, folder: Path) -> None:
    entry = keep(spool, until=3, size=50_000)
    spool.abort(entry)
    assert (entry.state, entry.plan) == ("broken", None)
    assert entry.path.stat().st_size == entry.nbytes < 1000
    spool.abort(entry)
    with pytest.raises(ResourceExhaustedError, match="no longer kept"):
        spool.append(entry, *STREAM[3])


def test_breaking_off_leaves_a_whole_stream_alone(spool: Spool) -> None:
    entry = keep(spool)
    spool.abort(entry)
    assert payloads(entry) == STREAM


def test_a_removed_stream_is_read_to_its_end_by_whoever_reads_it(spool: Spool) -> None:
    entry = keep(spool)
    reading = entry.records()
    assert next(reading).kind is RecordKind.STARTED
    spool.delete("a")
    assert [(record.kind, record.payload) for record in reading] == STREAM[1:]
    with pytest.raises(FileNotFoundError):
        payloads(entry)
    with pytest.raises(UnknownIdError):
        spool.delete("a")


def test_an_unknown_id_names_the_nearest(spool: Spool) -> None:
    keep(spool, "run-17")
    with pytest.raises(UnknownIdError, match="kept: run-17") as caught:
        spool.get("run-71")
    assert caught.value.valid == ("run-17",)


@pytest.mark.parametrize("place", [0, 10, 20, 60, -40, -1])
def test_a_changed_byte_is_noticed(spool: Spool, place: int) -> None:
    entry = keep(spool)
    data = bytearray(entry.path.read_bytes())
    data[place] ^= 1
    entry.path.write_bytes(data)
    with pytest.raises(ChecksumError, match="damaged on the disk"):
        payloads(entry)


# ------------------------------------------------------------------------------------------------ time and bytes


def test_a_stream_goes_when_its_time_is_over(spool: Spool, clock: Clock, folder: Path) -> None:
    keep(spool)
    spool.abort(keep(spool, "b", until=2))
    running = keep(spool, "c", until=2)
    clock.ahead_s += TTL_S - 1
    assert len(spool.entries()) == 3
    clock.ahead_s += 2
    assert spool.entries() == [running]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["lock", running.path.name])


def test_the_oldest_make_room(spool: Spool) -> None:
    for capture_id in "abcd":
        keep(spool, capture_id, size=14_000)
    assert [entry.header.capture_id for entry in spool.entries()] == ["b", "c", "d"]


def test_a_stream_that_can_never_fit_is_refused_and_removes_nothing(spool: Spool) -> None:
    keep(spool, "a", size=20_000)
    entry = keep(spool, "b", until=2)
    with pytest.raises(ResourceExhaustedError, match=r"may take 100000 bytes \(spool_max_bytes\)") as caught:
        spool.append(entry, RecordKind.FRAME, bytes(100_000))
    assert caught.value.field == "resumable"
    assert spool.get("a").state == "committed"


def test_a_full_disk_is_an_error_of_the_stream_alone(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, entry = keep(spool), keep(spool, "b", until=3)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(records.os, "writev", full)
        with pytest.raises(ResourceExhaustedError, match="No space left on device; free space, or ask without"):
            spool.append(entry, *STREAM[3])
        spool.abort(entry)
        with pytest.raises(ResourceExhaustedError):
            spool.begin(header("c"))
    assert spool.get("b").state == "broken"
    assert spool.find("c") is None
    assert payloads(whole) == STREAM
    assert payloads(keep(spool, "c")) == STREAM


def test_a_write_that_stops_short_is_completed(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev

    def short(fd: int, parts: list[Any]) -> int:
        return writev(fd, [parts[0][:3]])

    monkeypatch.setattr(records.os, "writev", short)
    assert payloads(keep(spool)) == STREAM


# ------------------------------------------------------------------------------------------------ after a crash


def test_after_a_crash_whole_streams_are_there_and_half_written_ones_are_broken(
    spool: Spool, folder: Path, clock: Clock
) -> None:
    whole = keep(spool, "whole")
    half = keep(spool, "half", until=4, size=3000)
    with half.path.open("ab") as file:
        file.write(b"torn")
    found = reopened(spool, folder, clock)
    assert payloads(found.get("whole")) == STREAM
    assert found.get("whole").manifest == whole.manifest
    assert found.get("whole").plan == whole.plan
    broken = found.get("half")
    assert (broken.state, broken.header) == ("broken", half.header)
    assert broken.path.stat().st_size < 1000
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".broken", ".committed"]
    found.close()


@pytest.mark.parametrize("length", [0, 4, 8, 12, 30])
def test_a_file_without_a_header_is_removed(spool: Spool, folder: Path, clock: Clock, length: int) -> None:
    half = keep(spool, until=2)
    os.truncate(half.path, length)
    found = reopened(spool, folder, clock)
    assert found.entries() == []
    assert [path.name for path in folder.iterdir()] == ["lock"]
    found.close()


@pytest.mark.parametrize("cut", [1, 5, 30, 60, 100])
def test_a_whole_stream_that_lost_its_tail_is_broken(spool: Spool, folder: Path, clock: Clock, cut: int) -> None:
    entry = keep(spool)
    os.truncate(entry.path, entry.nbytes - cut)
    found = reopened(spool, folder, clock)
    assert found.get("a").state == "broken"
    found.close()


def test_a_new_attempt_that_ended_beside_the_old_one_wins(spool: Spool, folder: Path, clock: Clock) -> None:
    spool.abort(keep(spool, until=2))
    old = folder / f"{file_stem('a')}.broken"
    remains = old.read_bytes()
    keep(spool)
    old.write_bytes(remains)
    found = reopened(spool, folder, clock)
    assert [entry.state for entry in found.entries()] == ["committed"]
    assert not old.exists()
    found.close()


def test_time_goes_on_while_no_service_runs(spool: Spool, folder: Path, clock: Clock) -> None:
    keep(spool)
    keep(spool, "half", until=3)
    clock.ahead_s += TTL_S + 1
    found = reopened(spool, folder, clock)
    assert found.entries() == []
    assert [path.name for path in folder.iterdir()] == ["lock"]
    found.close()


def test_a_folder_is_one_services(spool: Spool, folder: Path, clock: Clock) -> None:
    keep(spool)
    other = Spool(folder, 100_000, TTL_S, clock)
    assert other.entries() == []
    with pytest.raises(ResourceExhaustedError, match="another running service's; give each its own spool_dir"):
        other.begin(header("b"))
    spool.close()
    other.begin(header("b"))
    assert payloads(other.get("a")) == STREAM
    other.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", 1000, TTL_S)
    with pytest.raises(ResourceExhaustedError, match="choose another spool_dir"):
        spool.begin(header())


def test_closing_breaks_off_what_is_being_written(spool: Spool, folder: Path, clock: Clock) -> None:
    keep(spool, "half", until=3)
    keep(spool, "whole")
    spool.close()
    found = Spool(folder, 100_000, TTL_S, clock)
    assert {entry.header.capture_id: entry.state for entry in found.entries()} == {
        "half": "broken",
        "whole": "committed",
    }
    found.close()
