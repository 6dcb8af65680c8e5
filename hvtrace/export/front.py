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
from hvtrace.export.server import Server
from hvtrace.export.webconfig import Web


def run(server: Server, web_config: Path | None, limits: Limits, keeper: Connection) -> None:
    """Serve until the end. Raises HvtraceError for a web configuration that is no good."""
    server.web = Web(web_config, say) if web_config else None
    source = RemoteSource(keeper)
    collector = SourceCollector(source, say, limits, partial(own, server.refused))

    def metrics(accept: str) -> tuple[str, bytes]:
        answer = render(collector.families(), accept)
        trim()
        return answer

    say(f"serving {server.url}")
    asyncio.run(server.serve(metrics, say))
