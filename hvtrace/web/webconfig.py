"""The web configuration file of Prometheus' exporters: TLS, passwords, headers, a rate limit.

The format is exporter-toolkit's (docs/web-configuration.md there). A file is all or nothing: what
is not understood is one line, and never a server that is more open than its file reads. It is
read again when it, or a file that it names, has changed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import ssl
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.web import tls, yamlfile
from hvtrace.web.auth import check_hash
from hvtrace.web.yamlfile import Section

_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""Headers that a file may set, with the values that they may have; () is any."""

_SECTIONS = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
_MOST_BYTES = 1 << 20  # of one file
# A file that is written twice within a tick of the kernel's clock looks the same after both.
_TICK_NS = 50_000_000

Stamp = tuple[int, ...] | None
"""By which a change of a file is seen."""


class RateLimit:
    """A token bucket: `burst` requests at once, and one more every `interval` seconds."""

    def __init__(
        self, interval: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval, self._burst, self._clock = interval, burst, clock
        self._tokens, self._time = float(burst), clock()

    def allow(self) -> bool:
        """Whether one more request may pass now."""
        now = self._clock()
        passed, self._time = now - self._time, now
        self._tokens = min(self._burst, self._tokens + passed / self._interval)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(frozen=True)
class Config:
    """What the file says; as it stands here, that of a server without one."""

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()
    users: Mapping[str, bytes] = field(default_factory=dict)
    """bcrypt hashes by name; without one, nobody is asked for a password."""
    headers: tuple[tuple[str, str], ...] = ()
    rate_limit: RateLimit | None = None


class Web:
    """A web configuration file, watched. Use it as the user who is to read it again."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Read the file; `say` gets a line when a change of it is no good, and when it is again.

        Raises HvtraceError.
        """
        self._path, self._say = path, say
        self._stamps: dict[Path, Stamp] = {}
        self._digests: dict[Path, bytes] = {}
        self._problem = ""
        self._config = Config()
        self._load()

    def current(self) -> Config:
        """What holds now: the file, or what it was before it was broken. Costs a stat a file."""
        if any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
            problem = ""
            try:
                self._load()
            except HvtraceError as error:
                problem = str(error)
            if problem and problem != self._problem:
                self._say(f"{problem}; what it was before stays")
            elif self._problem and not problem:
                self._say(f"web configuration {self._path}: good again")
            self._problem = problem
        return self._config

    def _load(self) -> None:
        before, self._digests, self._stamps = self._digests, {}, {}
        try:
            config = parse(self._read(str(self._path)), self._read_named)
        except Exception as error:  # whatever it is, a server that is there goes on
            what = str(error) if isinstance(error, HvtraceError) else repr(error)
            raise HvtraceError(f"web configuration {self._path}: {what}") from None
        if self._digests != before:  # else it was only touched: connections and rates go on
            self._config = config

    def _read_named(self, name: str) -> bytes:
        """A file that the file names: from where that stands."""
        return self._read(str(self._path.parent / name))

    def _read(self, name: str) -> bytes:
        path = Path(name)
        stamp = _stamp(path)
        fresh = stamp and len(stamp) > 1 and stamp[0] > time.time_ns() - _TICK_NS
        self._stamps[path] = None if fresh else stamp  # None: look into it again
        try:
            # Not blocking: nobody might ever write into what turns out to be a pipe.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise HvtraceError(f"{path} is no file")
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            who = f" as user {_user()}" if error.errno in (errno.EACCES, errno.EPERM) else ""
            raise HvtraceError(f"cannot read {path}{who}: {error.strerror}") from None
        if len(content) > _MOST_BYTES:
            raise HvtraceError(f"{path} is larger than 1 MiB")
        self._digests[path] = hashlib.blake2b(content).digest()
        return content


def parse(content: bytes, read: Callable[[str], bytes]) -> Config:
    """What `content` says; `read` gives what is in a file that it names. Raises HvtraceError."""
    whole = yamlfile.load(content, _SECTIONS)
    http = whole.section("http_server_config", ("http2", "headers"))
    http.flag("http2", True)  # leave to speak it, which we do not need
    encrypted = whole.section("tls_server_config", tls.KEYS)
    is_encrypted = "tls_server_config" in whole
    return Config(
        tls=tls.context(encrypted, read) if is_encrypted else None,
        allowed_sans=tls.allowed_sans(encrypted),
        users=_users(whole.section("basic_auth_users", None)),
        headers=_headers(http.section("headers", None)),
        rate_limit=_rate_limit(whole.section("rate_limit", ("interval", "burst"))),
    )


def _users(section: Section) -> dict[str, bytes]:
    users = {name: text.encode() for name, text in section.items()}
    for name, hashed in users.items():
        if ":" in name:
            raise HvtraceError(f'basic_auth_users: no name may have a colon, as "{name}" has')
        if problem := check_hash(hashed):
            raise HvtraceError(f"basic_auth_users: {name}: {problem}")
    return users


def _headers(section: Section) -> tuple[tuple[str, str], ...]:
    for name, value in section.items():
        if name not in _HEADERS:
            raise HvtraceError(f'headers: "{name}" cannot be set, but {", ".join(_HEADERS)} can')
        if value and _HEADERS[name] and value not in _HEADERS[name]:
            raise HvtraceError(f"headers: {name} can be {' or '.join(_HEADERS[name])}")
        if not value.isascii() or not value.isprintable():
            raise HvtraceError(f"headers: {name} has characters that no header can have")
    return tuple((name, value) for name, value in section.items() if value)


def _rate_limit(section: Section) -> RateLimit | None:
    interval = section.seconds("interval")
    burst = section.number("burst", 0)
    if not interval:
        return None
    if burst < 1:
        raise HvtraceError("rate_limit: with a burst below 1 no request would pass")
    return RateLimit(interval, burst)


def _stamp(path: Path) -> Stamp:
    """Differs from what it was before, if the file does; its time first."""
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _user() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
