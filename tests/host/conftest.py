"""The same host as for tests/vm, of which tests take parts away: one kernel is enough."""

from tests.vm.conftest import pytest_configure

__all__ = ["pytest_configure"]
