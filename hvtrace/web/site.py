"""What is served: a landing page, /metrics and /-/healthy, to those who may see it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import h11

from hvtrace import __version__
from hvtrace.web.auth import Passwords, credentials
from hvtrace.web.limits import HttpLimits
from hvtrace.web.render import Busy, Metrics, Renderer
from hvtrace.web.webconfig import Config, Web

TEXT = "text/plain; charset=utf-8"

_LANDING = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>hvtrace exporter</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 10vh auto; max-width: 36rem }}
body {{ padding: 0 1rem }}
dt {{ font-family: ui-monospace, monospace; margin-top: 1rem }}
dd {{ margin: 0 }}
footer {{ margin-top: 2rem; opacity: .7 }}
</style>
</head>
<body>
<h1>hvtrace exporter</h1>
<p>Hyper-V hypercalls of the guests on this host, counted in its kernel.</p>
<dl>
<dt><a href="/metrics">/metrics</a></dt>
<dd>for Prometheus: text, OpenMetrics, or protobuf with native histograms</dd>
<dt><a href="/-/healthy">/-/healthy</a></dt>
<dd>says that this process answers; it asks for no counters</dd>
</dl>
<footer>hvtrace {__version__}</footer>
</body>
</html>
"""


@dataclass(frozen=True)
class Answer:
    """What a client gets."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


def plain(status: HTTPStatus, text: str = "", **headers: str) -> Answer:
    """A line of text."""
    return Answer(
        status,
        f"{text or status.phrase}\n".encode(),
        headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()),
    )


def not_allowed(request: h11.Request) -> Answer | None:
    """The answer to a method that nothing here has."""
    if request.method in (b"GET", b"HEAD"):
        return None
    return plain(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")


class Site:
    """Answers requests."""

    def __init__(
        self,
        metrics: Metrics,
        web: Web | None,
        limits: HttpLimits,
        refused: Counter[str],
        say: Callable[[str], None],
    ) -> None:
        self._web, self._seconds, self._refused = web, limits.answer_seconds, refused
        self._renderer = Renderer(metrics, limits.waiting, say)
        self._passwords = Passwords()

    def close(self) -> None:
        """Let the threads end."""
        self._renderer.close()
        self._passwords.close()

    @property
    def config(self) -> Config:
        """What the web configuration file says now."""
        return self._web.current() if self._web else Config()

    async def answer(self, request: h11.Request) -> Answer:
        """The answer to a request without a body; its body is left out for HEAD by who sends it."""
        config = self.config
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._refusal(config, request) or await self._page(request)
        except (Busy, TimeoutError):
            answer = plain(HTTPStatus.SERVICE_UNAVAILABLE, "busy: try again", Retry_After="1")
        reason = {
            HTTPStatus.TOO_MANY_REQUESTS: "rate",
            HTTPStatus.UNAUTHORIZED: "auth",
            HTTPStatus.SERVICE_UNAVAILABLE: "busy",
        }.get(answer.status)
        if reason:
            self._refused[reason] += 1
        return replace(answer, headers=answer.headers + config.headers)

    async def _refusal(self, config: Config, request: h11.Request) -> Answer | None:
        """Why this client gets no page. Raises Busy."""
        if config.rate_limit and not config.rate_limit.allow():
            return plain(HTTPStatus.TOO_MANY_REQUESTS)
        if config.users and not await self._is_known(config, request):
            challenge = 'Basic realm="hvtrace", charset="UTF-8"'
            return plain(HTTPStatus.UNAUTHORIZED, WWW_Authenticate=challenge)
        return not_allowed(request)

    async def _page(self, request: h11.Request) -> Answer:
        """Raises Busy."""
        match _path(request.target):
            case "/":
                return Answer(HTTPStatus.OK, _LANDING.encode(), "text/html; charset=utf-8")
            case "/-/healthy":
                return plain(HTTPStatus.OK, "hvtrace exporter is healthy")
            case "/metrics":
                return await self._metrics(request)
        return plain(HTTPStatus.NOT_FOUND, "hvtrace exporter: the metrics are at /metrics")

    async def _is_known(self, config: Config, request: h11.Request) -> bool:
        """Raises Busy."""
        said = credentials(_header(request, b"authorization").encode("latin-1"))
        if not said:
            return False
        return await self._passwords.are_right(config.users, *said)

    async def _metrics(self, request: h11.Request) -> Answer:
        """Raises Busy."""
        compress = wants_gzip(_header(request, b"accept-encoding"))
        made = await self._renderer.render(_header(request, b"accept"), compress)
        if not made:
            return plain(
                HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics cannot be made: see the log"
            )
        headers: tuple[tuple[str, str], ...] = (("Vary", "Accept, Accept-Encoding"),)
        if made.compressed:
            headers += (("Content-Encoding", "gzip"),)
        return Answer(HTTPStatus.OK, made.body, made.content_type, headers)


def wants_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header prefers gzip to none (RFC 9110, 12.5.3)."""
    qualities = dict(_qualities(header.lower().split(",")))
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def _qualities(elements: Iterable[str]) -> Iterable[tuple[str, float]]:
    for element in elements:
        name, _, parameter = element.partition(";")
        key, _, value = parameter.partition("=")
        try:
            yield name.strip(), float(value) if key.strip() == "q" else 1.0
        except ValueError:
            yield name.strip(), 0.0


def _header(request: h11.Request, name: bytes) -> str:
    """All headers of this name in one, as RFC 9110 5.3 has it; "" without one."""
    return ", ".join(value.decode("latin-1") for key, value in request.headers if key == name)


def _path(target: bytes) -> str:
    """Of a request target in either form that RFC 9112 (3.2) has for GET; "" of what is neither."""
    text = target.decode("ascii", errors="replace")
    if not text.startswith("/"):
        try:
            text = urlsplit(text).path or "/" if "://" in text else ""
        except ValueError:  # as of http://[
            return ""
    return unquote(text.partition("?")[0])
