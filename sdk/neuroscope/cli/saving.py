"""`--save FILE`: in every command, the ending of FILE names what is written.

RESULT = Saver({".json": SweepResult.save, **pictures(SweepResult.plot)})

save: Annotated[list[Path] | None, RESULT.option("the result or a picture of it")] = None,

RESULT.check(save)              # before anything runs
RESULT.write(result, save)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import typer

from neuroscope.activations.cache import ActivationCache
from neuroscope.cli.console import err
from neuroscope.errors import InvalidRequestError

T = TypeVar("T")
PICTURES = (".png", ".svg", ".pdf")
OPTION = "--save"


class Saver(Generic[T]):
    """Writes one kind of result, in the format that the ending of a file names.

    Args:
        writers: for each ending, what writes the file.
    """

    def __init__(self, writers: Mapping[str, Callable[[T, Path], Any]]) -> None:
        self._writers = writers

    @property
    def endings(self) -> str:
        """The endings, for help texts and errors."""
        return ", ".join(self._writers)

    def option(self, written: str) -> Any:
        """The option of a command.

        Args:
            written: what is written, for the help text.
        """
        help_text = f"Writes {written}; the ending says how: {self.endings}. Repeat it for several files."
        return typer.Option(OPTION, "-o", metavar="FILE", help=help_text)

    def check(self, paths: Sequence[Path] | None) -> None:
        """Refuses files that cannot be written, before anything runs.

        Raises:
            InvalidRequestError: a file has another ending, or its folder does not exist.
        """
        for path in paths or ():
            if path.suffix.lower() not in self._writers:
                raise InvalidRequestError(
                    f"{path} cannot be written: this command writes {self.endings}",
                    field=OPTION,
                    valid=tuple(self._writers),
                )
            if not path.parent.is_dir():
                raise InvalidRequestError(f"{path} cannot be written: there is no folder {path.parent}", field=OPTION)

    def write(self, result: T, paths: Sequence[Path] | None) -> None:
        """Writes the files and says where they are.

        Raises:
            InvalidRequestError: a file cannot be written.
        """
        for path in paths or ():
            try:
                written = self._writers[path.suffix.lower()](result, path)
            except OSError as error:
                raise InvalidRequestError(f"{path}: {error.strerror or error}", field=OPTION) from None
            for each in cast("list[Path]", written) if isinstance(written, list) else [path]:
                err.print(f"saved: {each}", style="dim", soft_wrap=True)


def pictures(draw: Callable[[T, Path], Any], *others: str) -> dict[str, Callable[[T, Path], Any]]:
    """The endings of pictures, all written by one function.

    Args:
        draw: draws a result into a file; where it makes several files it gives their paths.
        others: endings that it writes besides.
    """
    return dict.fromkeys((*PICTURES, *others), draw)


def _plot(result: Any, path: Path) -> None:
    result.plot(path)


CACHE: Saver[ActivationCache] = Saver({".safetensors": ActivationCache.save})
"""Captured tensors."""
RESULT: Saver[Any] = Saver({".json": lambda result, path: result.save(path), **pictures(_plot, ".html", ".htm")})
"""Results of analyses."""
