"""What our own programs cost: measured by the kernel, now and then, for it costs, too."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from hvtrace.kernel import bpf

_MEASURE_SECONDS, _REST_SECONDS = 0.05, 10.0


class Measuring:
    """A thread that lets the kernel measure a part of the time, until it is stopped."""

    def __init__(self) -> None:
        """Begin. Raises OSError: without CAP_SYS_ADMIN, EPERM."""
        descriptor = bpf.enable_statistics()  # measures all programs for as long as it is open
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(descriptor,), daemon=True)
        self._thread.start()

    def _run(self, descriptor: int) -> None:
        with suppress(OSError):  # what was allowed is so no more
            while True:
                self._stopped.wait(_MEASURE_SECONDS)
                os.close(descriptor)
                if self._stopped.wait(_REST_SECONDS):
                    return
                descriptor = bpf.enable_statistics()

    def stop(self) -> None:
        """Measure no more."""
        self._stopped.set()
        self._thread.join()
