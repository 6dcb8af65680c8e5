"""Passwords by HTTP's basic authentication (RFC 7617), against bcrypt hashes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt

from hvtrace.web.render import Busy

MOST_COST = 18
"""bcrypt's cost doubles with each; 18 takes about 20 seconds."""

_HASH = re.compile(rb"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_REMEMBERED = 256  # verdicts of each kind
_WAITING = 8  # checks at once, of which one is under way


def check_hash(hashed: bytes) -> str:
    """What is wrong with a bcrypt hash; "" where nothing is."""
    match = _HASH.fullmatch(hashed)
    if not match:
        return "the password must be hashed by bcrypt, as by htpasswd -nB"
    if not 4 <= int(match[1]) <= MOST_COST:
        return f"a bcrypt cost of {int(match[1])} is not between 4 and {MOST_COST}"
    return ""


def credentials(header: bytes) -> tuple[str, bytes] | None:
    """(user, password) of an Authorization header; None where it has none."""
    scheme, _, token = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (user.decode(errors="surrogateescape"), password) if colon else None


class Passwords:
    """Checks passwords, one at a time and never in the event loop: that is what bcrypt is made for.

    Verdicts are remembered, so that a scraper pays once. Those on right passwords are kept
    apart, where no number of wrong ones can push them out.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "hvtrace-password")
        self._waiting = 0
        self._secret = os.urandom(32)  # what is kept is of no use without it
        self._known: dict[bool, dict[bytes, None]] = {True: {}, False: {}}

    def close(self) -> None:
        """Check no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def are_right(self, users: Mapping[str, bytes], user: str, password: bytes) -> bool:
        """Whether this is the password of `user`, who need not be known.

        A user who is not known takes as long as one who is: somebody's hash is checked
        for them. Raises Busy.
        """
        hashed = users.get(user) or next(iter(users.values()))
        key = self._key(user, hashed, password)
        for verdict, known in self._known.items():
            if key in known:
                return verdict
        if self._waiting >= _WAITING:
            raise Busy
        self._waiting += 1
        try:
            fits = await asyncio.get_running_loop().run_in_executor(
                self._thread, _fits, password, hashed
            )
        finally:
            self._waiting -= 1
        verdict = fits and user in users
        known = self._known[verdict]
        known[key] = None
        if len(known) > _REMEMBERED:
            del known[next(iter(known))]
        return verdict

    def _key(self, user: str, hashed: bytes, password: bytes) -> bytes:
        parts = user.encode(errors="surrogateescape"), hashed, password
        return hashlib.blake2b(repr(parts).encode(), key=self._secret, digest_size=32).digest()


def _fits(password: bytes, hashed: bytes) -> bool:
    """bcrypt looks at 72 bytes; what makes hashes has cut off the rest, and so does Go."""
    return bcrypt.checkpw(password[:72], hashed)
