"""The HTTP server: /metrics, and nothing else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from hvtrace.errors import HvtraceError

CLIENT_SECONDS = 10
"""How long a client may keep its thread waiting for the next byte."""


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "127.0.0.1:10942", "[::1]:10942", "name:10942", or ":10942" (every address).

    Port 0 takes a free one. Raises HvtraceError.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # an IPv6 address needs brackets: where else would it end?
    if not colon or not port.isdecimal() or int(port) > 0xFFFF:
        raise HvtraceError(
            f'cannot listen on "{text}": give HOST:PORT, such as 127.0.0.1:10942 or [::1]:10942'
        )
    return host, int(port)


class Server:
    """Listens from the start, answers once it is entered, and is gone when it is left."""

    def __init__(self, address: str) -> None:
        """Listen on `address`. Raises HvtraceError where that cannot be."""
        host, port = parse_address(address)
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, where = found[0]
            self._http = _HttpServer(family, (str(where[0]), int(where[1])))
        except OSError as error:
            raise HvtraceError(f"cannot listen on {address}: {error.strerror}") from None

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = self._http.server_name, self._http.server_port
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def serve(self, registry: CollectorRegistry) -> None:
        """Answer from now on, in threads of their own."""
        self._http.set_app(_only_metrics(make_wsgi_app(registry)))
        threading.Thread(target=self._http.serve_forever, name="hvtrace-http", daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http.get_app() is not None:
            self._http.shutdown()
        self._http.server_close()


class _HttpServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a slow client does not keep the program from ending
    request_queue_size = 128

    def __init__(self, family: int, address: tuple[str, int]) -> None:
        self.address_family = family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's search for its own name, which may ask a name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or never said anything, is no news."""


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not worth a line each."""


def _only_metrics(metrics: WSGIApplication) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"hvtrace exporter: the metrics are at /metrics\n"]

    return app
