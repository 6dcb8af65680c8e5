"""An audit that has seen all it needs looks no more: hvtrace's own doing, whatever the kernel."""

from __future__ import annotations

import json
import signal
import time

from hvtrace.guest.session import Session
from hvtrace.kernel.audit import LOOK_SECONDS
from tests.vm.test_audit import audit, entry_is_watched, mix_of


def test_a_guest_that_is_known_costs_nothing_more() -> None:
    """What reads CPUID is gone as soon as every vCPU was seen, though the audit goes on."""
    with Session(mix_of("good")) as session:
        session.wait_ready()
        with audit("--duration", "300") as running:
            session.go()
            while entry_is_watched():
                time.sleep(0.2)
            time.sleep(2 * LOOK_SECONDS)
            assert not entry_is_watched()
            assert running.poll() is None
            running.send_signal(signal.SIGINT)
            [guest] = json.loads(running.communicate()[0])["guests"]
    assert guest["exposed"] is not None
    assert guest["same_cpuid"] is True
