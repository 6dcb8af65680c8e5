"""docs/top.md against the view: every column, every key, every picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hvtrace.top.columns import COLUMNS
from hvtrace.top.screens.help import KEYS

PAGE = Path(__file__).parents[2] / "docs" / "top.md"
TEXT = PAGE.read_text(encoding="utf-8")


def cells(heading: str) -> set[str]:
    """What stands in backticks in the first column of the table under a heading."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def test_every_column_is_explained():
    assert cells("Columns") == {column.key for column in COLUMNS}


@pytest.mark.parametrize("keys", KEYS)
def test_every_key_of_the_help_is_there(keys):
    # Cursor keys and those that end it go without saying.
    named = set(keys.split()) - {"↑", "↓", "PgUp", "PgDn", "Ctrl-C", "space"}
    assert named <= cells("Keys")


def test_every_picture_is_there():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 5
    for name in pictures:
        svg = (PAGE.parent / name).read_text(encoding="utf-8")
        assert svg.startswith("<svg")
        assert "http" not in svg.replace("http://www.w3.org/", "").replace(
            "https://www.textualize.io", ""
        )
