"""What an SVG picture of a screen says: its text, line by line."""

from __future__ import annotations

import html
import re

_TEXT = re.compile(
    r'<text [^>]*x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" textLength="(?P<length>[\d.]+)"[^>]*'
    r"clip-path[^>]*>(?P<text>[^<]*)</text>"
)


def text_of(svg: str) -> str:
    """Lines of the screen in `svg`, without blanks at their ends."""
    found = [match for match in _TEXT.finditer(svg) if match["text"]]
    each = min(float(m["length"]) / len(html.unescape(m["text"])) for m in found)
    lines: dict[float, list[str]] = {}
    for match in found:
        line = lines.setdefault(float(match["y"]), [])
        start = round(float(match["x"]) / each)
        text = html.unescape(match["text"]).replace("\N{NO-BREAK SPACE}", " ")
        line += [" "] * (start + len(text) - len(line))
        line[start : start + len(text)] = text
    heights = sorted(lines)
    step = 24.4  # of Rich's SVG: 20 pixels of font, 1.22 of line height
    rows = {round((y - heights[0]) / step): "".join(lines[y]).rstrip() for y in heights}
    return "\n".join(rows.get(number, "") for number in range(max(rows) + 1)) + "\n"
