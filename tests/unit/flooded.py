"""A server in a process of its own, for tests that look at what it takes.

    python flooded.py [web configuration file]

Says its port, then what it is told to say; and for a line on stdin, whom it has refused
and how many objects there are.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path

from hvtrace.web.server import Server
from hvtrace.web.webconfig import Web

BODY = b"".join(b'hvtrace_hypercalls_total{vm="vm%d"} %d\n' % (n, n) for n in range(30_011))


async def main() -> None:
    def say(line: str) -> None:
        print(line, flush=True)

    with Server("127.0.0.1:0") as server:
        if len(sys.argv) > 1:
            server.web = Web(Path(sys.argv[1]), say)
        say(str(server._socket.getsockname()[1]))
        loop = asyncio.get_running_loop()

        def tell() -> None:
            sys.stdin.readline()
            gc.collect()
            say(json.dumps([server.refused, len(gc.get_objects())]))

        loop.add_reader(sys.stdin, tell)
        await server.serve(lambda accept: ("text/plain", BODY), say)


if __name__ == "__main__":
    asyncio.run(main())
