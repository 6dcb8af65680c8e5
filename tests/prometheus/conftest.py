"""One scene for all tests: a VM takes a minute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.prometheus.scene import Scene, set_up


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with set_up(tmp_path_factory.mktemp("scene")) as scene:
        yield scene
