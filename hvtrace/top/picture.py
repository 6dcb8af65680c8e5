"""The screen as an SVG file that stands alone."""

from __future__ import annotations

import html
import re

FONTS = "Menlo, Consolas, 'DejaVu Sans Mono', monospace"
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

_FONT_FACE = re.compile(r"\s*@font-face\s*{[^}]*}")
_RUN = re.compile(
    r'<text (?P<before>[^>]*)x="(?P<x>[\d.]+)" (?P<y>y="[\d.]+") '
    r'textLength="(?P<length>[\d.]+)" (?P<after>[^>]*)>(?P<text>[^<]*)</text>'
)


def standalone(svg: str) -> str:
    """Rich's `svg` for any viewer.

    Without its web font: nothing is fetched to show it, and each run of text
    says its length, so any monospaced font keeps the columns. Without spaces
    at the ends of runs: some viewers (librsvg) drop them, and columns with them.
    """
    return _RUN.sub(_trimmed, _FONT_FACE.sub("", svg).replace("Fira Code, monospace", FONTS))


def _trimmed(run: re.Match[str]) -> str:
    text = html.unescape(run["text"])
    each = float(run["length"]) / max(1, len(text))
    x = float(run["x"]) + each * (len(text) - len(text.lstrip(NO_BREAK_SPACE)))
    text = text.strip(NO_BREAK_SPACE + "\n")
    if not text:
        return ""
    shown = html.escape(text).replace(NO_BREAK_SPACE, "&#160;")
    place = f'x="{x:.5g}" {run["y"]} textLength="{each * len(text):.5g}"'
    return f"<text {run['before']}{place} {run['after']}>{shown}</text>"
