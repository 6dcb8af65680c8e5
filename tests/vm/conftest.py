"""These tests stand on real hypercalls: on a host that has none they fail at once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hvtrace.kernel import kvm
from hvtrace.kernel.live import LiveSource, open_source


def pytest_configure() -> None:
    """Refuse a host on which nothing in here could be seen.

    Raises:
        pytest.UsageError: one line that says what to run instead.
    """
    if os.geteuid() != 0 or not kvm.DEVICE.exists() or not kvm.has_hyperv():
        raise pytest.UsageError(
            "these tests need root and a KVM with Hyper-V (CONFIG_KVM_HYPERV),"
            " and this host lacks one: make test-vm runs them in VMs"
        )


@pytest.fixture(scope="session")
def source() -> Iterator[LiveSource]:
    """One attached hvtrace for all tests that watch from inside: loading takes long in a VM."""
    with open_source() as opened:
        yield opened
