"""Call codes: what is publicly known of each, and names both ways.

The facts are in codes.csv beside this file, one line a code, made to be
reviewed by a person. Sizes are as in :mod:`hvtrace.hyperv.sizes`; `sources`
has one letter for each source, see :data:`SOURCES`.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.sizes import Size, parse_size
from hvtrace.hyperv.wording import did_you_mean, looks_like_number, parse_unsigned

SOURCES = {
    "W": "TLFS, web edition of 2025/26",
    "A": "TLFS 6.0b, appendix A",
    "L": "Linux 7.2, include/hyperv/",
    "O": "OpenVMM, crate hvdef",
}


@dataclass(frozen=True, slots=True)
class Definition:
    """What is known of one call code. None and "" stand for not known, or not applicable."""

    code: int
    name: str
    kind: str | None  # "simple" or "rep"
    input: Size
    output: Size
    kvm: str  # what KVM does with it: a key of hvtrace.hyperv.kvm.HANDLING
    kvm_since: str | None  # kernel version; "<=5.10": 5.10 has it already
    xmm_input_since: str | None  # first kernel whose KVM reads XMM registers for it
    tlfs_fast: bool | None  # "Fast Call" of TLFS 6.0b, which means two registers at most
    linux_name: str | None
    sources: str  # letters of SOURCES
    note: str

    def output_bytes(self, rep_cnt: int) -> int | None:
        """Length of the output for `rep_cnt` elements; None where it is not known."""
        return self.output.length_bytes(0, rep_cnt)


def _definition(row: dict[str, str]) -> Definition:
    return Definition(
        code=int(row["code"], 16),
        name=row["name"],
        kind=row["class"] or None,
        input=parse_size(row["input"]),
        output=parse_size(row["output"]),
        kvm=row["kvm"],
        kvm_since=row["kvm_since"] or None,
        xmm_input_since=row["xmm_input_since"] or None,
        tlfs_fast={"yes": True, "no": False, "": None}[row["tlfs_fast"]],
        linux_name=row["linux_name"] or None,
        sources=row["sources"],
        note=row["note"],
    )


def _load() -> Mapping[int, Definition]:
    with Path(__file__).with_name("codes.csv").open(encoding="utf-8", newline="") as file:
        rows = [_definition(row) for row in csv.DictReader(file)]
    return MappingProxyType({row.code: row for row in rows})


CODES: Mapping[int, Definition] = _load()
"""Every known code, in ascending order."""


def name_of(code: int) -> str:
    """TLFS name of `code`, or its number as "0x1234" where it is not known."""
    known = CODES.get(code)
    return known.name if known else f"0x{code:04x}"


def parse(text: str) -> int:
    """Code from a number ("0x13", "19") or a name.

    Names are those of the TLFS or of Linux, in any case, with or without
    their prefix ("HvCall", "HvExtCall", "HVCALL_"). Raises HvtraceError for
    a number beyond 16 bits, an ambiguous name, and an unknown name (with
    near matches).
    """
    text = text.strip()
    if looks_like_number(text):
        return parse_unsigned(text, 16, "call code")
    found = _by_name().get(_key(text), [])
    if len(found) == 1:
        return found[0]
    if found:
        numbers = " and ".join(f"0x{code:04x}" for code in found)
        raise HvtraceError(f'"{text}" is the name of {numbers}: give the number')
    names = {key: name_of(codes[0]) for key, codes in _by_name().items()}
    raise HvtraceError(f'no hypercall is named "{text}"{did_you_mean(_key(text), names)}')


def _key(name: str) -> str:
    """A name without case, underscores and prefix: what comparisons use."""
    key = name.lower().replace("_", "")
    for prefix in ("hvcall", "hvextcall"):
        key = key.removeprefix(prefix)
    return key


def _by_name() -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for known in CODES.values():
        for key in {_key(known.name), _key(known.linux_name or known.name)}:
            found[key].append(known.code)
    return found
