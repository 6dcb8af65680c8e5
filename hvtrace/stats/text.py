"""Numbers and names for people: three significant digits, in few columns. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from hvtrace.hyperv import codes


def quantity(value: float) -> str:
    """A count or rate in five columns at most: "999", "1.23k", "45.6M", "0.25", "<0.01"."""
    if isinstance(value, int) and value < 1000:
        return str(value)
    if 0 < value < 0.005:
        return "<0.01"
    for suffix in ("", "k", "M", "G", "T", "P"):
        if value < 999.5:
            return _three_digits(value) + suffix
        value /= 1000
    return _three_digits(value) + "E"


def duration(nanoseconds: float) -> str:
    """A time in six columns at most, up to a day: "733ns", "1.23µs", "45.6ms", "7.89s"."""
    value = nanoseconds
    if value < 999.5:
        return f"{value:.0f}ns"
    for suffix in ("µs", "ms"):
        value /= 1000
        if value < 999.5:
            return _three_digits(value) + suffix
    return _three_digits(value / 1000) + "s"


def percent(part: float, whole: float) -> str:
    """A share in three columns at most: "-" for none, "<1", "37", ">99", "100" for all."""
    if not part or not whole:
        return "-"
    share = 100 * part / whole
    if share < 1:
        return "<1"
    if share > 99 and part != whole:
        return ">99"
    return f"{share:.0f}"


def share(ratio: float) -> str:
    """A share in per cent, in five columns at most, small ones too: "0.31", "12.5", "<0.01"."""
    return quantity(100 * ratio)


def printable(text: str) -> str:
    """`text` without characters that a terminal might act on: names come from other processes."""
    return "".join(c if c.isprintable() else "?" for c in text)


def short_names(wanted: Iterable[int], width: int) -> dict[int, str]:
    """Names of call codes in `width` columns, without "Hv" and "Call".

    Whole words are left out of the middle where a name is too long. Codes
    that would look alike are shown by number.
    """
    names = {code: re.sub("^Hv(Ext)?Call", r"\1", codes.name_of(code)) for code in wanted}
    short = {code: _elide(name, width) for code, name in names.items()}
    uses = Counter(short.values())
    return {code: name if uses[name] == 1 else f"0x{code:04x}" for code, name in short.items()}


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def _elide(name: str, width: int) -> str:
    """As many words as fit; of several ways, the one that keeps more of the end."""
    if len(name) <= width:
        return name
    words = re.findall(r"[A-Z][^A-Z]*|[^A-Z]+", name)
    for left_out in range(1, len(words) - 1):
        for first in range(1, len(words) - left_out):
            text = "".join((*words[:first], "…", *words[first + left_out :]))
            if len(text) <= width:
                return text
    return name[: width - 1] + "…"
