"""For tests of properties: a machine that is busy makes none false."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("hvtrace", deadline=None)
hypothesis.settings.load_profile("hvtrace")
