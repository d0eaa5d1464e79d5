"""Resolves a model path to a local folder: a path, a GGUF file, or a download from the Hugging Face hub.

Downloads run outside the engine's thread. A repository in the hub's cache needs no network.
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

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS
from tqdm import tqdm

from neuroscope.errors import ModelNotFoundError, nearest
from neuroscope.named_models.catalogue import CATALOGUE
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.weights_form import on_cpu
from neuroscope_inference.gguf.conversion import SUFFIX as GGUF_SUFFIX
from neuroscope_inference.gguf.conversion import convert, gguf_file

_ReportProgress = Callable[[int, int], None]


class DownloadCancelledError(Exception):
    """Stops a download whose caller has gone."""


async def locate(model_path: str, revision: str, dtype: str = "") -> AsyncGenerator[pb.LoadProgress | Path, None]:
    """Yields progress while files are downloaded or converted, then the folder.

    Args:
        model_path: a folder, a GGUF file, a name or a repository.
        revision: of a repository.
        dtype: of what is not quantised in a GGUF file; empty: what suits the device.

    Raises:
        ModelNotFoundError: there is no such folder, repository or revision; names the nearest models.
    """
    folder = local_folder(model_path)
    if folder is None and model_path in CATALOGUE:
        raise ModelNotFoundError(
            f"{model_path} is not on this machine yet; fetch it there with: neuroscope models get {model_path}",
            field="model_path",
        )
    if folder is None:
        work = partial(_download, model_path, revision)
    elif (file := gguf_file(folder)) is not None:
        work = partial(convert, file, dtype=dtype or _gguf_dtype())
    else:
        yield folder
        return
    async with aclosing(_with_progress(work)) as reported:
        async for found in reported:
            yield found


def _gguf_dtype() -> str:
    """The type of unquantised tensors: MLX's CPU backend is about thirty times slower in float16 than in float32."""
    return "float32" if on_cpu() else ""


async def _with_progress(work: Callable[[_ReportProgress], Path]) -> AsyncGenerator[pb.LoadProgress | Path, None]:
    """Runs work in a thread; yields its progress, then its result."""
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
    """Like `asyncio.to_thread`, but the process can exit while the thread is blocked on the network."""
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
    """The absolute path of a folder or file, or of a named model that was fetched; None if it does not exist."""
    try:
        folder = Path(model_path).expanduser()
        if not folder.exists() and (named := CATALOGUE.get(model_path)) is not None and named.is_fetched:
            folder = named.path
        return folder.resolve() if folder.exists() else None
    except (OSError, RuntimeError):  # the name is too long, or ~user does not exist
        return None


def default_id(model_path: str) -> str:
    """The last part of a path or hub id, without the suffix .gguf; of a named model its name."""
    if model_path in CATALOGUE:
        return model_path
    path = local_folder(model_path) or Path(model_path)
    return path.stem if path.suffix.lower() == GGUF_SUFFIX else path.name


def _download(repository: str, revision: str, report: _ReportProgress) -> Path:
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=DEFAULT_ALLOW_PATTERNS,
                tqdm_class=_progress_bar(report),
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


def _progress_bar(report: _ReportProgress) -> type[Any]:
    """A tqdm class that reports bytes instead of drawing."""

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # an argument of huggingface_hub's own class
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
