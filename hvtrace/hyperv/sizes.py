"""How long the parameters of a call are: a fixed part, a part per element, a header.

Written as in codes.csv: ``24+8*rep`` is 24 bytes and 8 for every element of
a rep call, ``32+8*var`` is 32 bytes and the variable header, ``8+data`` has
a tail that only the call itself can tell, ``?`` is a part that no public
source states, and an empty text says that nothing at all is known.
"""

from __future__ import annotations

from dataclasses import dataclass

VAR_UNIT_BYTES = 8
"""The variable header is counted in units of 8 bytes (TLFS: hypercall input value)."""


@dataclass(frozen=True, slots=True)
class Size:
    """Size of the input or the output parameters of a call code. None: not known, never 0."""

    fixed_bytes: int | None = None
    element_bytes: int | None = None
    variable_header: bool | None = None
    open_ended: bool = False  # data of a length that no field of the input value gives

    @property
    def known(self) -> bool:
        """Whether the counts of a call are enough to compute its length."""
        return not self.open_ended and None not in (self.fixed_bytes, self.element_bytes)

    @property
    def is_none(self) -> bool:
        """Known to be nothing: the call has no such parameters."""
        return self == NOTHING

    def length_bytes(self, var_cnt: int, rep_cnt: int) -> int | None:
        """Length for a call with these counts; None where a part of it is not known."""
        if not self.known or self.fixed_bytes is None or self.element_bytes is None:
            return None
        return self.fixed_bytes + VAR_UNIT_BYTES * var_cnt + self.element_bytes * rep_cnt

    @property
    def formula(self) -> str:
        """As in codes.csv: the text that :func:`parse_size` reads."""
        if self == Size():
            return ""
        fixed = _text(self.fixed_bytes)
        terms = [fixed] if fixed != "0" else []
        if self.variable_header:
            terms.append(f"{VAR_UNIT_BYTES}*var")
        if self.element_bytes != 0:
            terms.append(f"{_text(self.element_bytes)}*rep")
        if self.open_ended:
            terms.append("data")
        return "+".join(terms) or "0"

    def in_words(self) -> str:
        """For people: "24 bytes, and 8 for each rep"."""
        if self == NOTHING:
            return "none"
        if self.fixed_bytes is None:
            return "unknown"
        parts = [_bytes(self.fixed_bytes)] if self.fixed_bytes else []
        if self.variable_header:
            parts.append("a variable header")
        if self.element_bytes is None:
            parts.append("an unknown size for each rep")
        elif self.element_bytes:
            unit = self.element_bytes if parts else _bytes(self.element_bytes)
            parts.append(f"{unit} for each rep")
        if self.open_ended:
            parts.append("data of a length that only the call tells")
        return ", and ".join([", ".join(parts[:-1]), parts[-1]]) if parts[1:] else parts[0]


NOTHING = Size(0, 0, False)


def parse_size(text: str) -> Size:
    """Read a size as codes.csv has it; ValueError for anything else."""
    if not text:
        return Size()
    fixed: int | None = 0
    element: int | None = 0
    var = data = False
    for term in text.split("+"):
        amount, _, factor = term.partition("*")
        if factor == "rep":
            element = _amount(amount)
        elif (amount, factor) == (str(VAR_UNIT_BYTES), "var"):
            var = True
        elif term == "data":
            data = True
        elif not factor:
            fixed = _amount(amount)
        else:
            raise ValueError(f"not a size: {text!r}")
    return Size(fixed, element, var, data)


def _text(amount: int | None) -> str:
    return "?" if amount is None else str(amount)


def _bytes(amount: int) -> str:
    return f"{amount} byte" if amount == 1 else f"{amount} bytes"


def _amount(text: str) -> int | None:
    return None if text == "?" else int(text)
