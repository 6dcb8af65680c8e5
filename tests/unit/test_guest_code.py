"""The guest's bytes are its assembly: GNU as agrees on every one of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hvtrace.guest import code, memory

ROWS = [line.partition("|") for line in code.LISTING.splitlines() if "|" in line]


def constants() -> dict[str, int]:
    """Names that the assembly may use: fields of the structures, and memory's constants."""
    fields = {
        name.upper(): getattr(structure, name).offset
        for structure in (memory.Descriptor, memory.Control)
        for name, *_ in structure._fields_
        if name != "pad"
    }
    names = (
        "DESCRIPTOR_BYTES",
        "REGISTER_WORDS",
        "USER_DATA_SELECTOR",
        "USER_CODE_SELECTOR",
        "STOP_PORT",
        "PANIC_PORT",
    )
    return fields | {name: getattr(memory, name) for name in names}


def source() -> str:
    lines = [".intel_syntax noprefix"]
    lines += [f".equ {name}, {value}" for name, value in constants().items()]
    for line in code.LISTING.splitlines():
        lines.append(line.partition("|")[2].partition(";")[0] or line.partition(";")[0])
    return "\n".join(lines) + "\n"


def assemble(folder: Path, text: str) -> bytes:
    (folder / "guest.s").write_text(text)
    subprocess.run(["as", "--64", "-o", "guest.o", "guest.s"], cwd=folder, check=True)
    command = ["objcopy", "-O", "binary", "-j", ".text", "guest.o", "guest.bin"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "guest.bin").read_bytes()


def test_names_of_fields_are_unique() -> None:
    names = [
        name
        for structure in (memory.Descriptor, memory.Control)
        for name, *_ in structure._fields_
        if name != "pad"
    ]
    assert len(names) == len(set(names))
    assert not {"RDX", "R8", "RAX", "XMM0"} & {name.upper() for name in names}  # registers


def test_bytes_equal_the_assembled_source(tmp_path: Path) -> None:
    assembled = assemble(tmp_path, source())
    assert code.CODE.hex(" ") == assembled.hex(" ")


def test_labels_are_where_the_assembler_puts_them(tmp_path: Path) -> None:
    assemble(tmp_path, source())
    table = subprocess.run(
        ["nm", "guest.o"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    found = {
        name: int(at, 16) for at, kind, name in map(str.split, table.splitlines()) if kind == "t"
    }
    assert found == code.SYMBOLS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2].partition(";")[0].strip())
def test_each_line_has_bytes_and_assembly(row: tuple[str, str, str]) -> None:
    assert re.fullmatch(r"  (?:[0-9a-f]{2} )+ *", row[0])
    assert row[2].partition(";")[0].strip()


def test_code_fits_its_page() -> None:
    assert len(code.CODE) <= memory.HYPERCALL_PAGE - memory.CODE


def test_listing_fits_the_page_of_a_reader() -> None:
    assert max(map(len, code.LISTING.splitlines())) <= 100


@pytest.mark.parametrize(
    "label", ["start", "invalid_opcode", "panic", "site_vmcall", "site_vmmcall", "site_user"]
)
def test_labels_that_others_use(label: str) -> None:
    assert label in code.SYMBOLS


def test_hypercall_sites_are_the_two_instructions() -> None:
    assert code.CODE[code.SYMBOLS["site_vmcall"] :].startswith(bytes.fromhex("0f01c1 c3"))
    assert code.CODE[code.SYMBOLS["site_vmmcall"] :].startswith(bytes.fromhex("0f01d9 c3"))
