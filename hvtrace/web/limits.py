"""What clients of the HTTP server may take, and what becomes of the others."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = ("auth", "busy", "connections", "malformed", "rate", "time", "tls", "unread")
"""Why clients are refused, or cut off; docs/web-config.md says more of each."""


@dataclass(frozen=True)
class HttpLimits:
    """Of one server. Where a time is over, the connection is."""

    connections: int = 128
    """At once."""
    header_bytes: int = 16 * 1024
    """Of a request, with its first line."""
    request_seconds: float = 10.0
    """For TLS's handshake and a whole request; later ones on a connection have it anew."""
    idle_seconds: float = 120.0
    """Between two requests: scrapes are mostly 15 to 60 seconds apart."""
    answer_seconds: float = 30.0
    """To make an answer; and then again, for the client to take it."""
    closing_seconds: float = 1.0
    """For the client to hear the last of what we said."""
    waiting: int = 16
    """Requests for metrics at once; of these one is being made."""
    unread_bytes: int = 32 << 20
    """Of answers that clients have not taken yet; beyond it, the oldest of these is cut off."""
