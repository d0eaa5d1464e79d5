"""From what a user calls a model to a folder: a local path, a GGUF file, or files from the Hugging Face hub.

Runs beside the engine: a download of hours holds up nobody. A repository that is in the hub's cache needs no network.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS
from tqdm import tqdm

from neuroscope.errors import ModelNotFoundError, nearest
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.gguf.conversion import SUFFIX as GGUF_SUFFIX
from neuroscope_inference.gguf.conversion import convert, gguf_file

_Report = Callable[[int, int], None]


class DownloadCancelledError(Exception):
    """Ends a download that nobody waits for any more."""


async def locate(model_path: str, revision: str) -> AsyncGenerator[pb.LoadProgress | Path, None]:
    """Yields progress while files are fetched, then the folder.

    Raises:
        ModelNotFoundError: neither a folder nor a repository of that name; says what is near.
    """
    folder = local_folder(model_path)
    if folder is None:
        work = partial(_fetch, model_path, revision)
    elif (file := gguf_file(folder)) is not None:
        work = partial(convert, file, dtype=_gguf_dtype())
    else:
        yield folder
        return
    async with aclosing(_reported(work)) as reported:
        async for found in reported:
            yield found


def _gguf_dtype() -> str:
    """The type of what is not quantised: MLX's CPU backend computes float16 some thirty times slower than float32."""
    return "float32" if mx.default_device().type == mx.DeviceType.cpu else ""


async def _reported(work: Callable[[_Report], Path]) -> AsyncGenerator[pb.LoadProgress | Path, None]:
    """Progress of work that runs in a thread of its own, then its folder."""
    progress: asyncio.Queue[pb.LoadProgress | None] = asyncio.Queue()  # None: the end
    loop = asyncio.get_running_loop()
    gone = threading.Event()

    def report(done: int, total: int) -> None:
        if gone.is_set():
            raise DownloadCancelledError
        message = pb.LoadProgress(phase=pb.LOAD_PHASE_FETCH, bytes_done=done, bytes_total=total)
        loop.call_soon_threadsafe(progress.put_nowait, message)

    fetching = _in_daemon_thread(lambda: work(report))
    fetching.add_done_callback(lambda _: progress.put_nowait(None))
    done_bytes = 0
    try:
        while (message := await progress.get()) is not None:
            if message.bytes_done >= done_bytes:
                done_bytes = message.bytes_done
                yield message
        yield fetching.result()
    finally:
        gone.set()
        fetching.cancel()


def _in_daemon_thread(work: Callable[[], Path]) -> asyncio.Future[Path]:
    """As `asyncio.to_thread`, but the end of the process does not wait for the thread: the network may hang."""
    future: Future[Path] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="neuroscope-fetch", daemon=True).start()
    return asyncio.wrap_future(future)


def local_folder(model_path: str) -> Path | None:
    """The folder or file of that name, absolute; None if there is none."""
    try:
        folder = Path(model_path).expanduser()
        return folder.resolve() if folder.exists() else None
    except (OSError, RuntimeError):  # a name that is too long, the home of a user who is not there
        return None


def default_id(model_path: str) -> str:
    """The last part of a path or of a hub id, of a GGUF file without its ending."""
    path = local_folder(model_path) or Path(model_path)
    return path.stem if path.suffix.lower() == GGUF_SUFFIX else path.name


def _fetch(repository: str, revision: str, report: _Report) -> Path:
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=DEFAULT_ALLOW_PATTERNS,
                tqdm_class=_reporting_bar(report),
            )
        )
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _not_found(repository, "") from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{repository!r} has no revision {revision!r}", field="revision") from error
    except (HfHubHTTPError, OSError) as error:
        raise _not_found(repository, f" (the hub could not be asked: {type(error).__name__})") from error


def _not_found(path: str, detail: str) -> ModelNotFoundError:
    parent = local_folder(str(Path(path).parent))
    models = {config.parent.name: config.parent for config in parent.glob("*/config.json")} if parent else {}
    valid = [str(models[name]) for name in nearest(Path(path).name, sorted(models))]
    hint = f"; models beside it: {', '.join(valid)}" if valid else ""
    return ModelNotFoundError(
        f"{path!r} is neither a folder nor a repository on the hub{detail}{hint}", field="model_path", valid=valid
    )


def _reporting_bar(report: _Report) -> type[Any]:
    """A progress bar that draws nothing and reports bytes."""

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # of the hub's own bar
            self._counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self._counts_bytes:
                report(int(self.n), int(self.total or 0))
            return shown

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            """Draws nothing."""

    return Bar
