"""For all layers of tests: nothing is skipped in silence."""

from __future__ import annotations

import pytest


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run in which a test was skipped is not a good run.

    What a test needs is installed by `make setup`, and a layer that can not run on
    this machine must say so and fail: a green result means that all of it ran.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"{len(skipped)} skipped: that counts as failed", red=True)
