"""Lines that scroll: whose style is seen."""

from __future__ import annotations

import asyncio

from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult

from hvtrace.top.textpane import TextPane


class Host(App[None]):
    def compose(self) -> ComposeResult:
        yield TextPane()


def styles(*lines: Text, heading: Text | None = None) -> list[Style | None]:
    """Of the first characters of each line on the screen."""

    async def drawn() -> list[Style | None]:
        async with Host().run_test(size=(20, 5)) as pilot:
            pane = pilot.app.query_one(TextPane)
            pane.show(lines, heading)
            return [next(iter(pane.render_line(y))).style for y in range(pilot.app.size.height)]

    return asyncio.run(drawn())


def test_a_line_has_its_style_whether_or_not_a_part_has_one():
    heading, whole, part, *_ = styles(
        Text("all of it", "bold red"),
        Text("some", "bold").append(" more", "red"),
        heading=Text("heading", "bold underline"),
    )
    assert heading
    assert (heading.bold, heading.underline) == (True, True)
    assert whole
    assert (whole.bold, whole.color and whole.color.name) == (True, "red")
    assert part
    assert (part.bold, part.underline) == (True, None)
