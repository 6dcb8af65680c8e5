"""Numbers and names as users write them."""

from __future__ import annotations

from collections.abc import Mapping

from hvtrace.errors import HvtraceError


def looks_like_number(text: str) -> bool:
    """Whether `text` is meant as a number, right or wrong, and not as a name."""
    return text[:1].isdigit() or text[:1] in ("-", "+")


def parse_unsigned(text: str, bits: int, what: str) -> int:
    """An unsigned number of at most `bits` bits, decimal or 0x hexadecimal.

    `what` names it in the message of the HvtraceError that anything else raises.
    """
    try:
        number = int(text, 0)
    except ValueError:
        raise HvtraceError(f'{what} "{text}" is not a number: write it as 0x13 or 19') from None
    if number < 0 or number >> bits:
        raise HvtraceError(f"{what} {text} is out of range: 0 to {2**bits - 1:#x} ({bits} bits)")
    return number


def did_you_mean(key: str, names: Mapping[str, object]) -> str:
    """Up to three of `names` (key -> what to show) whose keys are near, as a message's end.

    Points to ``hvtrace explain --list`` where nothing is near.
    """
    from difflib import get_close_matches  # takes longer to import than both tables to load

    near = get_close_matches(key, names, n=3, cutoff=0.7)
    near += [other for other in names if key and key in other]
    shown = list(dict.fromkeys(str(names[other]) for other in near))[:3]
    if not shown:
        return '; "hvtrace explain --list" shows all'
    return f": did you mean {' or '.join(shown)}?"
