"""The screen as an SVG file that stands alone."""

from __future__ import annotations

import html
import re

FONTS = "Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SPACE = "\N{NO-BREAK SPACE}"
_FONT_FACE = re.compile(r"\s*@font-face\s*{[^}]*}")
_TEXT = re.compile(r' x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)"([^>]*)>([^<]*)</text>')


def standalone(svg: str) -> str:
    """Rich's `svg` for any viewer.

    Without its web font: nothing is fetched to show it, and each run of text
    says its length, so any monospaced font keeps the columns. Without spaces
    at the ends of runs: some viewers (librsvg) drop them, and columns with them.
    """
    svg = _FONT_FACE.sub("", svg).replace("Fira Code, monospace", FONTS)
    return _TEXT.sub(_trimmed, svg)


def _trimmed(match: re.Match[str]) -> str:
    x, y, length, more, text = match.groups()
    text = html.unescape(text)
    each = float(length) / max(1, len(text))
    left = float(x) + each * (len(text) - len(text.lstrip(SPACE)))
    text = text.strip(SPACE)
    width = each * len(text)
    text = html.escape(text).replace(SPACE, "&#160;")
    return f' x="{left:.5g}" y="{y}" textLength="{width:.5g}"{more}>{text}</text>'
