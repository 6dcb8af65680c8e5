"""The live view as a person has it: a shell in a terminal of tmux's, keys, and what is seen."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HVTRACE = str(Path(sys.executable).with_name("hvtrace"))
WAIT_SECONDS = 300.0
"""An emulated CPU takes 20 times as long for everything, and has other work, too."""

POLL_SECONDS = 0.1
"""At least; where looking takes long it is done less often, not to keep the view from its work."""

PROMPT = "ready$"


class Terminal:
    """A terminal with an interactive shell in it. Close it, or its tmux lives on."""

    def __init__(self, folder: Path, columns: int = 80, lines: int = 24) -> None:
        self.folder = folder
        self._tmux = ("tmux", "-S", str(folder / "tmux"), "-f", "/dev/null", "-u")
        environment = os.environ | {"XDG_CONFIG_HOME": str(folder / "config")}
        settings = folder / "bashrc"
        settings.write_text(f"PS1='{PROMPT} '; unset HISTFILE\n")
        size = ("-x", str(columns), "-y", str(lines))
        shell = f"exec bash --rcfile {settings} -i"
        subprocess.run(
            [*self._tmux, "new-session", "-d", "-s", "test", *size, "-c", str(folder), shell],
            env=environment,
            check=True,
        )
        self.until(PROMPT)

    def tmux_command(self, *arguments: str) -> list[str]:
        """A command of its tmux."""
        return [*self._tmux, *arguments]

    def tmux(self, *arguments: str) -> str:
        """Have tmux do something; what it says."""
        return subprocess.check_output(self.tmux_command(*arguments), text=True)

    def close(self) -> None:
        """End it as a lost connection does: the terminal is gone."""
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)

    @property
    def lines(self) -> list[str]:
        """What is on the screen now."""
        return self.tmux("capture-pane", "-p", "-t", "test").split("\n")[:-1]

    def type(self, *keys: str) -> None:
        """Type keys, by tmux's names of them."""
        self.tmux("send-keys", "-t", "test", *keys)

    def write(self, text: str) -> None:
        """Type letters."""
        self.tmux("send-keys", "-t", "test", "-l", text)

    def command(self, line: str) -> None:
        """Type a line for the shell, on an empty screen."""
        self.write(f"clear; {line}")
        self.type("Enter")

    def run(self, *arguments: str) -> None:
        """Type a command of hvtrace's."""
        self.command(shlex.join([HVTRACE, *arguments]))

    def resize(self, columns: int, lines: int) -> None:
        """Another size: the program gets a SIGWINCH."""
        self.tmux("resize-window", "-t", "test", "-x", str(columns), "-y", str(lines))

    def until(self, what: str | Callable[[list[str]], object]) -> list[str]:
        """Wait for a text, or a condition of the lines; the lines then."""
        is_there = (lambda lines: what in "\n".join(lines)) if isinstance(what, str) else what
        end = time.monotonic() + WAIT_SECONDS
        while True:
            begin = time.monotonic()
            lines = self.lines
            assert "Traceback" not in "\n".join(lines), "\n".join(lines)
            if is_there(lines):
                return lines
            assert time.monotonic() < end, "\n".join((f"no {what!r} on:", *lines))
            time.sleep(max(POLL_SECONDS, 4 * (time.monotonic() - begin)))

    def status(self) -> int:
        """The exit status of the command that has ended."""
        self.until(lambda lines: any(line == f"{PROMPT}" for line in lines))
        self.write("status=${PIPESTATUS[0]}; clear; echo status $status")
        self.type("Enter")
        lines = self.until(lambda lines: any(re.match(r"status \d", line) for line in lines))
        return next(int(line.split()[1]) for line in lines if line.startswith("status "))


def programs() -> set[int]:
    """Ids of hvtrace's BPF programs in the kernel."""
    listed = subprocess.check_output(["bpftool", "--json", "prog", "show"])
    return {one["id"] for one in json.loads(listed) if one.get("name", "").startswith("hvt_")}


@contextmanager
def terminal(folder: Path, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    """One that is closed in the end."""
    opened = Terminal(folder, columns, lines)
    try:
        yield opened
    finally:
        opened.close()
