"""Statuses: every fact of the reference is in the table, and names work both ways."""

from __future__ import annotations

import csv
import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.errors import HvtraceError
from hvtrace.hyperv import statuses
from hvtrace.hyperv.statuses import STATUSES

# As in test_hyperv_codes: pins the collected reference, 103 statuses in 5 columns.
REFERENCE_ROWS = 103
REFERENCE_SHA256 = "c20ae78bd9ca4ef2e13d1870f91a39b1d8b0ab7a1bf19f181e704a48a4ffc4ce"
REFERENCE_SOURCES = {
    "A": "TLFS-6.0b-AppB",
    "L": "Linux-7.2",
    "O": "OpenVMM-hvdef",
    "C": "TLFS-5.0C-AppB",
}
FROM_KVM = {"yes": "yes", "no": "no", "forward": "fallthrough to userspace only"}


def test_every_fact_of_the_reference_is_in_the_table() -> None:
    assert len(STATUSES) == REFERENCE_ROWS
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["value", "name", "meaning", "returned_by_kvm_itself", "source"])
    for known in STATUSES.values():
        sources = ";".join(REFERENCE_SOURCES[letter] for letter in known.sources)
        name = f"HV_STATUS_{known.name}"
        row = [f"0x{known.value:04x}", name, known.meaning, FROM_KVM[known.from_kvm], sources]
        writer.writerow(row)
    assert hashlib.sha256(text.getvalue().encode()).hexdigest() == REFERENCE_SHA256


def test_names_have_no_prefix_and_are_unique() -> None:
    names = [known.name for known in STATUSES.values()]
    assert not [name for name in names if name.startswith("HV_")]
    assert len(set(names)) == len(names)
    assert list(STATUSES) == sorted(STATUSES)


def test_withdrawn_names_are_those_that_say_so() -> None:
    withdrawn = {value for value, known in STATUSES.items() if known.withdrawn}
    assert withdrawn == {v for v, known in STATUSES.items() if "withdrawn" in known.meaning}
    assert len(withdrawn) == 42


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (0, "SUCCESS"),
        (5, "INVALID_PARAMETER"),
        # TLFS 6.0b prints 0x13 as 0x33; both exist.
        (0x13, "INSUFFICIENT_BUFFERS"),
        (0x33, "INSUFFICIENT_BUFFER"),
        (1, "0x0001"),
        (0xFFFF, "0xffff"),
    ],
)
def test_name_of(status: int, name: str) -> None:
    assert statuses.name_of(status) == name


@pytest.mark.parametrize(
    "text", ["5", "0x5", "INVALID_PARAMETER", "hv_status_invalid_parameter", " Invalid_Parameter "]
)
def test_parse(text: str) -> None:
    assert statuses.parse(text) == 5


@given(st.integers(0, 0xFFFF))
def test_names_and_numbers_parse_back(status: int) -> None:
    assert statuses.parse(statuses.name_of(status)) == status


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("INVALID_PARAMETERS", 'no status is named "INVALID_PARAMETERS": did you mean '),
        ("xyzzy", 'no status is named "xyzzy"; "hvtrace explain --list" shows all'),
        ("65536", "status 65536 is out of range: 0 to 0xffff (16 bits)"),
        ("5x", 'status "5x" is not a number: write it as 0x13 or 19'),
    ],
)
def test_what_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(HvtraceError) as error:
        statuses.parse(text)
    assert str(error.value).startswith(message)
