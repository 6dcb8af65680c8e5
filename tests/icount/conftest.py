"""The same host as for tests/vm, with a clock that counts instructions."""

from tests.vm.conftest import pytest_configure

__all__ = ["pytest_configure"]
