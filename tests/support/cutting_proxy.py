"""A TCP proxy in front of a gRPC service that cuts, changes or withholds what the service sends, at a frame of HTTP/2.

with CuttingProxy(service.target) as proxy:
    proxy.cut_after(3)                  the next connection ends behind its third DATA frame; later ones are whole
    proxy.corrupt(3)                    the last byte of that frame is another one
    proxy.freeze_after(3)               nothing comes any more, and the connection stays open
"""

from __future__ import annotations

import contextlib
import socket
import threading

_HEAD_BYTES = 9
_DATA = 0


class CuttingProxy:
    """Listens on a port of its own and forwards to a target, `host:port`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._upstream = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._plan: tuple[str, int] | None = None
        self._closed = False
        self.data_frames = 0
        """DATA frames that came from the service on the latest connection."""
        self.acted = 0
        """How often a plan was carried out."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def target(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.drop()
        self._listener.close()

    def cut_after(self, frames: int) -> None:
        """Ends the connection behind so many DATA frames, counted from now, once."""
        self.data_frames, self._plan = 0, ("cut", frames)

    def corrupt(self, frame: int) -> None:
        """Changes the last byte of that DATA frame, counted from 1 and from now, once."""
        self.data_frames, self._plan = 0, ("corrupt", frame)

    def freeze_after(self, frames: int) -> None:
        """Withholds everything behind so many DATA frames, counted from now, on that connection."""
        self.data_frames, self._plan = 0, ("freeze", frames)

    def pass_on(self) -> None:
        """Nothing is done to what comes from now on, which is counted."""
        self.data_frames, self._plan = 0, None

    def drop(self) -> None:
        """Ends every connection."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
            except OSError:
                return
            self._sockets += [client, server]
            threading.Thread(target=self._upward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._downward, args=(server, client), daemon=True).start()

    def _upward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        _end(server)

    def _downward(self, server: socket.socket, client: socket.socket) -> None:
        frozen = False
        with contextlib.suppress(OSError), server.makefile("rb") as stream:
            while head := stream.read(_HEAD_BYTES):
                body = stream.read(int.from_bytes(head[:3], "big"))
                if head[3] == _DATA and body:
                    self.data_frames += 1
                    match self._plan:
                        case ("cut", after) if self.data_frames > after:
                            self._done()
                            break
                        case ("freeze", after) if self.data_frames > after:
                            self._done()
                            frozen = True
                        case ("corrupt", at) if self.data_frames == at:
                            self._done()
                            body = body[:-1] + bytes([body[-1] ^ 1])
                        case _:
                            pass
                if not frozen:
                    client.sendall(head + body)
        _end(client)
        _end(server)

    def _done(self) -> None:
        self._plan = None
        self.acted += 1


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
