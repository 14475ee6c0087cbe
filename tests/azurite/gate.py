"""A proxy on loopback in front of Azurite, or a service by itself, that answers as a test wants it to."""

import http.client
import http.server
import threading
from collections.abc import Callable
from typing import NamedTuple, Self

KEPT = ("content-", "x-ms-", "etag", "last-modified")


class Answer(NamedTuple):
    """An answer to a request; `claimed` is the length that it pretends to have, None for the true one."""

    status: int
    headers: dict[str, str]
    body: bytes
    claimed: int | None = None


class Asked(NamedTuple):
    """A request, with the status of the answer and the bytes of its body."""

    method: str
    path: str
    status: int
    body_bytes: int


class Gate:
    """Forwards requests to the service on `port`, or answers 200 and nothing where there is none.

    `alter` is given the method, the path with its query, and the answer; what it returns is sent, and for None the
    connection ends. `asked` tells what happened.
    """

    def __init__(
        self, port: int | None = None, alter: Callable[[str, str, Answer], Answer | None] | None = None
    ) -> None:
        self.alter = alter or (lambda method, path, answer: answer)
        self.asked: list[Asked] = []
        gate = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                answer = Answer(200, {}, b"") if port is None else _forward(port, self.command, self.path, headers)
                altered = gate.alter(self.command, self.path, answer)
                gate.asked.append(Asked(self.command, self.path, altered.status if altered else 0, len(answer.body)))
                if altered is not None:
                    self._send(altered)
                self.close_connection = altered is None or altered.claimed is not None

            do_HEAD = do_GET

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                length = len(answer.body) if answer.claimed is None else answer.claimed
                for name, value in (answer.headers | {"Content-Length": str(length)}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                """Ignore a client that closes its connection."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def carried(self) -> int:
        """How many bytes of blobs were asked for and answered; listings do not count."""
        return sum(one.body_bytes for one in self.asked if "comp=list" not in one.path)


class Stall:
    """As `alter`: lets so many bytes of blobs through; from then on nothing comes, and `reached` is set."""

    def __init__(self, after_bytes: int) -> None:
        self.reached, self._left = threading.Event(), after_bytes

    def __call__(self, method: str, path: str, answer: Answer) -> Answer | None:
        if answer.status == 206:
            self._left -= len(answer.body)
        if self._left >= 0:
            return answer
        self.reached.set()
        threading.Event().wait(60)
        return None


def _forward(port: int, method: str, path: str, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    kept = {n: v for n, v in answer.getheaders() if n.lower().startswith(KEPT) and n.lower() != "content-length"}
    connection.close()
    return Answer(answer.status, kept, body, int(answer.getheader("Content-Length") or 0) if method == "HEAD" else None)
