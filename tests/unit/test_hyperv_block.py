"""Where fast parameters are, against the reference's columns and a byte-by-byte model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.hyperv.block import BLOCK_BYTES, REGISTERS, Layout, layout_of, max_reps, pairs
from hvtrace.hyperv.codes import CODES, parse

# Copied from the collected reference, not computed here: for every code with output of known size,
# the first register of a fast output with one rep and no variable header ("-": does not fit), and
# the most reps a fast call can have.
FAST_OUTPUT = """
0004 XMM0     0040 XMM3     0044 XMM0     0046 RDX      0047 XMM0     0049 XMM0 12
004a XMM0     0050 XMM1 4   0052 XMM1     0053 XMM1     0054 XMM2     005a XMM1
006c XMM1     0076 XMM0     007b XMM0     007c -        009a XMM1 12  00ac XMM1
00ad XMM1     00c0 XMM0     00c2 XMM1     00c9 XMM1 80  00d4 XMM1 6   00e1 XMM1
00e3 -        00f4 XMM1 3   0101 -        0106 XMM0     011c XMM0 11  8001 RDX
8002 -        c001 -
"""
NO_OUTPUT = """
0001 0002 0003 0008 000b 000c 000d 000f 0011 0012 0013 0014 0015 0041 0042 0043 0045 0048 004b
004c 004d 004e 004f 0051 0058 005b 005c 005d 006b 006d 006e 006f 007d 007e 0084 0087 008b 0090
0094 0095 0096 0099 00af 00b0 00c1 00d7 00d8 00d9 00db 00e2 00e4 0103 0107 010a 010f 0110 0112
0113 011f 0131 8003
"""
UNKNOWN = """
0009 000a 000e 0010 0056 0059 005e 005f 0060 0061 0062 0063 0064 0065 0066 0067 0068 0069 006a
0070 0071 0077 0078 0079 007a 0080 0081 0082 0083 0085 0086 0088 0089 008a 008c 008d 008e 008f
0091 0092 0097 00e5 8004 8005 8006
"""


def _fast_output() -> dict[int, tuple[str, int | None]]:
    table: dict[int, tuple[str, int | None]] = {}
    words = FAST_OUTPUT.split()
    while words:
        code, register = int(words.pop(0), 16), words.pop(0)
        most = int(words.pop(0)) if words and len(words[0]) < 4 else None
        table[code] = (register, most)
    return table


def _codes(text: str) -> set[int]:
    return {int(word, 16) for word in text.split()}


def test_the_reference_has_a_word_on_every_code() -> None:
    groups = [set(_fast_output()), _codes(NO_OUTPUT), _codes(UNKNOWN)]
    assert set.union(*groups) == set(CODES)
    assert sum(map(len, groups)) == len(CODES) == 138


@pytest.mark.parametrize("code", _fast_output(), ids=hex)
def test_first_register_of_a_fast_output(code: int) -> None:
    register, most = _fast_output()[code]
    layout = layout_of(CODES[code], 0, 1)
    assert layout is not None
    assert layout.fits == (register != "-")
    if layout.fits:
        assert layout.output_pieces()[0].register.name == register
    assert max_reps(CODES[code]) == most


@pytest.mark.parametrize("code", sorted(_codes(NO_OUTPUT)), ids=hex)
def test_codes_without_output(code: int) -> None:
    assert CODES[code].output.is_none
    layout = layout_of(CODES[code], 0, 1)
    if CODES[code].input.known:
        assert layout is not None
        assert layout.output_bytes == 0
        assert not layout.fits or layout.output_pieces() == ()
    else:
        assert layout is None


@pytest.mark.parametrize("code", sorted(_codes(UNKNOWN)), ids=hex)
def test_codes_of_unknown_layout(code: int) -> None:
    assert layout_of(CODES[code], 0, 1) is None
    assert max_reps(CODES[code]) is None


@pytest.mark.parametrize(
    ("name", "var_cnt", "most"),
    [
        ("FlushVirtualAddressList", 0, 11),  # 24 + 8 n <= 112
        ("FlushVirtualAddressListEx", 0, 10),
        ("FlushVirtualAddressListEx", 3, 7),
        ("FlushVirtualAddressListEx", 10, 0),  # the header alone fills the block
        ("FlushVirtualAddressListEx", 11, 0),
        ("SetVpRegisters", 0, 3),
        ("UnmapGpaPages", 0, None),  # a rep call without list elements
        ("InstallInterceptEx", 0, None),  # elements of unknown size
        ("SignalEvent", 0, None),
    ],
)
def test_most_reps(name: str, var_cnt: int, most: int | None) -> None:
    assert max_reps(CODES[parse(name)], var_cnt) == most


@pytest.mark.parametrize(
    ("count", "first_register", "fits"),
    # "Output starts in XMM[ceil(n/4)], at most n = 4": the layout of a VSM test guest.
    [(1, "XMM1", True), (2, "XMM1", True), (4, "XMM1", True), (5, None, False), (12, None, False)],
)
def test_get_vp_registers(count: int, first_register: str | None, fits: bool) -> None:
    layout = layout_of(CODES[0x50], 0, count)
    assert layout == Layout(16 + 4 * count, 16 * count)
    assert layout.fits is fits
    if fits:
        pieces = layout.output_pieces()
        assert len(pieces) == count
        assert pieces[0].register.name == first_register


@pytest.mark.parametrize(
    ("input_bytes", "output_bytes", "fits"),
    [
        (0, 112, True),  # exactly seven pairs
        (0, 113, False),  # eight
        (1, 96, True),
        (1, 97, False),
        (16, 96, True),
        (17, 96, False),
        (112, 0, True),
        (112, 1, False),
        (113, 0, False),
        (0, 0, True),
    ],
)
def test_seven_pairs_fit_and_eight_do_not(input_bytes: int, output_bytes: int, fits: bool) -> None:
    assert Layout(input_bytes, output_bytes).fits is fits


def test_example_of_the_specification() -> None:
    """TLFS 3.8.1: 20 bytes of input, the next 12 ignored, 80 bytes left for output."""
    layout = Layout(20, 80)
    assert layout.output_room_bytes == 80
    assert layout.fits
    assert layout.output_pieces()[0].register.name == "XMM1"
    assert not Layout(20, 81).fits


def test_without_input_output_starts_in_a_general_register() -> None:
    names = [piece.register.name for piece in Layout(0, 24).output_pieces()]
    assert names == ["RDX", "R8", "XMM0"]


def test_pieces_say_which_bytes() -> None:
    spans = [(p.register.name, p.first, p.last) for p in Layout(20, 17).input_pieces()]
    assert spans == [("RDX", 0, 7), ("R8", 8, 15), ("XMM0", 16, 19)]
    spans = [(p.register.name, p.first, p.last) for p in Layout(20, 17).output_pieces()]
    assert spans == [("XMM1", 0, 15), ("XMM2", 16, 16)]
    assert Layout(0, 0).input_pieces() == ()


def test_pieces_of_what_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="113 bytes of input exceed"):
        Layout(113, 0).input_pieces()
    with pytest.raises(ValueError, match="97 bytes of output exceed"):
        Layout(16, 97).output_pieces()
    # Too much output leaves the input where it is.
    assert len(Layout(16, 97).input_pieces()) == 2


def test_registers_of_32_bit_callers() -> None:
    assert [(r.name, r.name_32) for r in REGISTERS[:3]] == [
        ("RDX", "EBX:ECX"),
        ("R8", "EDI:ESI"),
        ("XMM0", None),
    ]


def test_registers_cover_the_block() -> None:
    ends = [register.start + register.size_bytes for register in REGISTERS]
    assert [register.start for register in REGISTERS] == [0, *ends[:-1]]
    assert ends[-1] == BLOCK_BYTES == 112


def _register_of(byte: int) -> str:
    """The model: which register holds a byte of the block."""
    if byte < 16:
        return "RDX" if byte < 8 else "R8"
    return f"XMM{byte // 16 - 1}"


@given(st.integers(0, 150), st.integers(0, 150))
def test_against_a_model_of_single_bytes(input_bytes: int, output_bytes: int) -> None:
    layout = Layout(input_bytes, output_bytes)
    output_start = input_bytes
    while output_start % 16:
        output_start += 1
    last = output_start + output_bytes if output_bytes else input_bytes
    assert layout.fits == (last <= 112)
    assert layout.input_fits == (input_bytes <= 112)
    assert layout.output_room_bytes == len(range(output_start, 112))
    if layout.fits:
        for pieces, start, length in (
            (layout.input_pieces(), 0, input_bytes),
            (layout.output_pieces(), output_start, output_bytes),
        ):
            held = {b: p.register.name for p in pieces for b in range(p.first, p.last + 1)}
            assert held == {byte: _register_of(start + byte) for byte in range(length)}


@given(st.integers(0, 10_000))
def test_pairs(length_bytes: int) -> None:
    assert 16 * (pairs(length_bytes) - 1) < max(length_bytes, 1) <= 16 * max(pairs(length_bytes), 1)
