"""A bad line between a client and a server on loopback: it cuts connections, or stalls."""

import contextlib
import socket
import threading
from typing import Self


class Line:
    """Forwards TCP connections to `port`; how it fails can be changed at any time.

    `cut_after`: each connection ends after so many of them. `stall_after`: nothing more comes once so many came in all.
    `carried` counts the bytes from the server, `cuts` the connections that were cut.
    """

    def __init__(self, port: int) -> None:
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.carried = self.cuts = 0
        self.stalled = threading.Event()
        self.closed = threading.Event()
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._server_port))
                except OSError:
                    client.close()
                    raise
                threading.Thread(target=self._upwards, args=(client, server), daemon=True).start()
                threading.Thread(target=self._downwards, args=(server, client), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(1 << 16):
                server.sendall(piece)
        _hang_up(client, server)

    def _downwards(self, server: socket.socket, client: socket.socket) -> None:
        mine = 0
        with contextlib.suppress(OSError):
            while piece := server.recv(1 << 16):
                if self.stall_after is not None and self.carried >= self.stall_after:
                    self.stalled.set()
                    self.closed.wait()
                if self.cut_after is not None and mine + len(piece) > self.cut_after:
                    self.cuts += 1
                    break
                client.sendall(piece)
                mine += len(piece)
                self.carried += len(piece)
        _hang_up(client, server)


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
