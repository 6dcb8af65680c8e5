"""The same host as for tests/vm, with one of the patched KVMs of tests/kvm."""

from __future__ import annotations

import os

import pytest

from tests.kvm.build import VARIANTS
from tests.vm import conftest


def pytest_configure() -> None:
    """Refuse a host on which nothing in here could be seen.

    Raises:
        pytest.UsageError: one line that says what to run instead.
    """
    if os.environ.get("HVTRACE_KVM") not in VARIANTS:
        raise pytest.UsageError(
            "these tests need a patched KVM, named in HVTRACE_KVM:"
            " python -m tests.in_lab tests/xmm builds and boots them"
        )
    conftest.pytest_configure()
