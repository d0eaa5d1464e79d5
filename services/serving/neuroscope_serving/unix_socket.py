"""A Unix domain socket to listen on, which only its owner can open."""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from pathlib import Path

import grpc
import grpc.aio

from neuroscope.errors import NeuroScopeIntegrationError
from neuroscope_serving.settings import ServingSettings

_LONGEST_PATH = 103
"""Maximum length of a path in bytes on macOS; Linux allows four more."""


class UnixSocket:
    """The socket of one service."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, settings: ServingSettings) -> UnixSocket | None:
        """The socket of the settings, if they name one."""
        return cls(Path(settings.unix_socket).expanduser().absolute()) if settings.unix_socket else None

    def __str__(self) -> str:
        return f"unix:{self._path}"

    def bind(self, server: grpc.aio.Server) -> None:
        """Listens on the socket.

        Raises:
            NeuroScopeIntegrationError: the path is too long, not writable, or belongs to another service or a file.
        """
        if len(bytes(self._path)) > _LONGEST_PATH:
            raise self._error(f"the path has more than {_LONGEST_PATH} bytes")
        self._remove_left()
        try:
            server.add_insecure_port(str(self))
            self._path.chmod(0o600)
        except (RuntimeError, OSError) as error:
            raise self._error(
                getattr(error, "strerror", "") or "the folder does not exist, or belongs to another user"
            ) from None

    def close(self) -> None:
        """Removes the socket."""
        self._path.unlink(missing_ok=True)

    def _remove_left(self) -> None:
        """Removes a stale socket. gRPC would remove any socket, also one in use."""
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise self._error("there is a file of that name")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(error.strerror) from None
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.connect(str(self._path))
            except OSError as error:
                if error.errno != errno.ECONNREFUSED:
                    raise self._error(error.strerror) from None
                self._path.unlink(missing_ok=True)
                return
        raise self._error("another service listens there")

    def _error(self, reason: str | None) -> NeuroScopeIntegrationError:
        return NeuroScopeIntegrationError(f"cannot listen on {self}: {reason}", field="unix_socket")
