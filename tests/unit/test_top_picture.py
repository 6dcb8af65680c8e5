"""A picture that any viewer shows alike."""

from __future__ import annotations

import io

from rich.console import Console
from screens import text_of

from hvtrace.top.picture import standalone

TEXT = "  a & b  <c>   \n\n   [bold]x[/]    7 é …\n"


def svg() -> str:
    console = Console(width=30, height=4, file=io.StringIO(), record=True, force_terminal=True)
    console.print(TEXT, end="", highlight=False)
    return console.export_svg(title="hvtrace top")


def test_nothing_is_fetched():
    assert "url(" in svg().replace("url(#", "")
    found = standalone(svg())
    assert "url(" not in found.replace("url(#", "")
    assert "Fira" not in found
    assert "DejaVu Sans Mono" in found


def test_text_and_places_are_kept():
    expected = "  a & b  <c>\n\n   x    7 é …\n"
    assert text_of(svg()) == expected
    assert text_of(standalone(svg())) == expected


def test_no_run_of_text_begins_or_ends_with_a_blank():
    found = standalone(svg())
    assert ">a&#160;&amp;&#160;b&#160;&#160;&lt;c&gt;</text>" in found
    assert ">&#160;" not in found
    assert "&#160;</text>" not in found
    assert ">\n</text>" not in found
