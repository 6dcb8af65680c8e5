"""HV_STATUS values: names, meanings, and whether KVM itself returns them.

They are no errno values, and not the results of KVM's own PV hypercalls. The
facts are in statuses.csv beside this file, names without HV_STATUS_.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.wording import did_you_mean, looks_like_number, parse_unsigned

SOURCES = {
    "A": "TLFS 6.0b, appendix B",
    "L": "Linux 7.2, include/hyperv/",
    "O": "OpenVMM, crate hvdef",
    "C": "TLFS 5.0C, appendix B (withdrawn in 6.0)",
}


@dataclass(frozen=True, slots=True)
class Status:
    """One HV_STATUS value."""

    value: int
    name: str
    meaning: str
    from_kvm: str  # "yes", "no", or "forward": KVM sees it and forwards the call instead
    sources: str  # letters of SOURCES

    @property
    def withdrawn(self) -> bool:
        """Named by TLFS 5.0C only, one value for each CPU feature."""
        return self.sources == "C"


def _load() -> Mapping[int, Status]:
    with Path(__file__).with_name("statuses.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            Status(int(r["value"], 16), r["name"], r["meaning"], r["from_kvm"], r["sources"])
            for r in csv.DictReader(file)
        ]
    return MappingProxyType({row.value: row for row in rows})


STATUSES: Mapping[int, Status] = _load()
"""Every known status, in ascending order."""


def name_of(status: int) -> str:
    """Name of `status` without HV_STATUS_, or its number as "0x0042" where it is not known."""
    known = STATUSES.get(status)
    return known.name if known else f"0x{status:04x}"


def parse(text: str) -> int:
    """Status from a number ("0x5", "5") or a name in any case, with HV_STATUS_ or without.

    Raises HvtraceError for a number beyond 16 bits and an unknown name (with
    near matches).
    """
    text = text.strip()
    if looks_like_number(text):
        return parse_unsigned(text, 16, "status")
    name = text.upper().removeprefix("HV_STATUS_")
    by_name = {known.name: known.value for known in STATUSES.values()}
    if name in by_name:
        return by_name[name]
    raise HvtraceError(f'no status is named "{text}"{did_you_mean(name, {n: n for n in by_name})}')
