"""Metrics in a file, for the textfile collector of node_exporter."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hvtrace.errors import HvtraceError


class TextFile:
    """A file that is always whole: each version replaces the one before at one instant.

    Gone when it is left: counters that stand still in it would look like a quiet host.
    """

    def __init__(self, path: Path) -> None:
        """Raises HvtraceError where node_exporter would not read `path`, or we cannot write it."""
        if path.suffix != ".prom":
            raise HvtraceError(f"--textfile {path}: node_exporter reads files that end in .prom")
        self._path = path
        try:
            os.unlink(self._new(b""))
        except OSError as error:
            raise HvtraceError(f"cannot write to {path.parent}: {error.strerror}") from None

    def write(self, text: bytes) -> None:
        """Replace the file. Raises OSError, and leaves it as it was."""
        os.replace(self._new(text), self._path)

    def _new(self, text: bytes) -> str:
        """A file beside it, for a rename is atomic within a file system."""
        fd, name = tempfile.mkstemp(dir=self._path.parent, prefix=".hvtrace-")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text)
                os.fchmod(fd, 0o644)  # node_exporter is another user
        except OSError:
            os.unlink(name)
            raise
        return name

    def __enter__(self) -> TextFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._path.unlink()
