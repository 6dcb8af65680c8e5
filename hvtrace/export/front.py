"""What the process without privileges does: HTTP, from the keeper's snapshots."""

from __future__ import annotations

import asyncio
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from hvtrace.export.bounds import Limits
from hvtrace.export.collector import SourceCollector
from hvtrace.export.formats import render
from hvtrace.export.keeper import RemoteSource
from hvtrace.export.own import own, say, trim
from hvtrace.web.server import Server
from hvtrace.web.webconfig import Web

_LARGE_BYTES = 2 << 20
"""What a body took beside itself is worth giving back; to get it again takes milliseconds."""


def run(server: Server, web_config: Path | None, limits: Limits, keeper: Connection) -> None:
    """Serve until the end. Raises HvtraceError for a web configuration that is no good."""
    server.web = Web(web_config, say) if web_config else None
    source = RemoteSource(keeper)
    collector = SourceCollector(source, say, limits, partial(own, server.refused))

    def metrics(accept: str) -> tuple[str, bytes]:
        content_type, body = render(collector.families(), accept)
        if len(body) > _LARGE_BYTES:
            trim()
        return content_type, body

    say(f"serving {server.url}")
    asyncio.run(server.serve(metrics, say))
