"""Call codes: every fact of the reference is in the table, and names work both ways."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.errors import HvtraceError
from hvtrace.hyperv import codes
from hvtrace.hyperv.block import layout_of, max_reps
from hvtrace.hyperv.codes import CODES, Definition
from hvtrace.hyperv.kvm import HANDLING

# The collected reference on public hypercall facts, 138 codes in 17 columns, is not part of this
# repository. What it said is pinned here: the table must give it back, byte for byte.
REFERENCE_ROWS = 138
REFERENCE_SHA256 = "33e272f94e124973ded0f2322880830ec12ea70eb00ee8fc35b044df0fec9b59"
REFERENCE_COLUMNS = (
    "code,name,rep,xmm_input_in_kvm,output_bytes,kvm_handling,source,input_bytes,input_elem_bytes,"
    "variable_header,fast_output_fits,fast_output_first_reg,max_rep_fast,kvm_since,linux_name,"
    "tlfs60b_gpr_fast,note"
)
REFERENCE_SOURCES = {
    "W": "TLFS-web-2026",
    "A": "TLFS-6.0b-AppA",
    "L": "Linux-7.2",
    "O": "OpenVMM-hvdef",
}
YES_NO = {True: "yes", False: "no", None: ""}


def _reference_row(known: Definition) -> list[str]:
    fits, register, most = _fast_output(known)
    since = known.xmm_input_since
    return [
        f"0x{known.code:04x}",
        known.name,
        known.kind or "",
        f">={since}" if since else "no",
        known.output.formula,
        _handling(known),
        ";".join(REFERENCE_SOURCES[letter] for letter in known.sources),
        _number(known.input.fixed_bytes),
        _number(known.input.element_bytes),
        YES_NO[known.input.variable_header],
        fits,
        register,
        most,
        known.kvm_since or "",
        known.linux_name or "",
        YES_NO[known.tlfs_fast],
        known.note,
    ]


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _handling(known: Definition) -> str:
    words = {
        "status-2": "invalid_code",
        "vmm-if-syndbg": "userspace_if_syndbg",
        "kernel-or-vmm": "kernel_or_userspace",
        "kernel": "kernel",
        "vmm": "userspace>=6.3" if known.kvm_since == "6.3" else "userspace",
    }
    return words[known.kvm]


def _fast_output(known: Definition) -> tuple[str, str, str]:
    """The reference's columns on fast output: one rep, no variable header."""
    if known.output.is_none:
        return "no-output", "", ""
    layout = layout_of(known, 0, 1)
    if layout is None:
        return "", "", ""
    if not layout.fits:
        return "no", "", ""
    most = max_reps(known)
    return "yes", layout.output_pieces()[0].register.name, _number(most)


def test_every_fact_of_the_reference_is_in_the_table() -> None:
    assert len(CODES) == REFERENCE_ROWS
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(REFERENCE_COLUMNS.split(","))
    writer.writerows(_reference_row(known) for known in CODES.values())
    assert hashlib.sha256(text.getvalue().encode()).hexdigest() == REFERENCE_SHA256


def test_table_is_in_order_and_its_words_are_known() -> None:
    assert list(CODES) == sorted(CODES)
    for code, known in CODES.items():
        assert code == known.code
        assert known.kvm in HANDLING
        assert known.sources
        assert set(known.sources) <= set(codes.SOURCES)
        assert known.kind in ("simple", "rep", None)


def test_unknown_sizes_are_none_and_never_zero() -> None:
    unknown = CODES[0x0009]
    assert unknown.input.fixed_bytes is None
    assert unknown.input.element_bytes is None
    assert unknown.input.variable_header is None
    assert unknown.output_bytes(0) is None
    # InstallInterceptEx: 48 bytes, and list elements of a size that no source states.
    partly = CODES[0x0110].input
    assert (partly.fixed_bytes, partly.element_bytes) == (48, None)
    assert partly.length_bytes(0, 1) is None
    # RetrieveDebugData: 8 bytes of counts, then data.
    assert CODES[0x006A].output.fixed_bytes == 8
    assert CODES[0x006A].output_bytes(1) is None


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CODES[0x0001] = CODES[0x0002]  # type: ignore[index]
    with pytest.raises(AttributeError):
        CODES[0x0001].name = "HvCallSomethingElse"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x0013, "HvCallFlushVirtualAddressSpaceEx"),
        (0x8001, "HvExtCallQueryCapabilities"),
        (0x0000, "0x0000"),
        (0x1234, "0x1234"),
        (0xFFFF, "0xffff"),
    ],
)
def test_name_of(code: int, name: str) -> None:
    assert codes.name_of(code) == name


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("0x13", 0x13),
        ("0X13", 0x13),
        ("19", 0x13),
        ("0", 0),
        ("0xffff", 0xFFFF),
        ("HvCallFlushVirtualAddressSpaceEx", 0x13),
        ("FlushVirtualAddressSpaceEx", 0x13),
        ("flushvirtualaddressspaceex", 0x13),
        ("FLUSH_VIRTUAL_ADDRESS_SPACE_EX", 0x13),
        ("HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE_EX", 0x13),
        ("HVCALL_SEND_IPI", 0x0B),
        ("sendipi", 0x0B),
        ("SendSyntheticClusterIpi", 0x0B),
        ("HvExtCallQueryCapabilities", 0x8001),
        ("QueryCapabilities", 0x8001),
        ("HV_EXT_CALL_QUERY_CAPABILITIES", 0x8001),
        ("  PostMessage ", 0x5C),
    ],
)
def test_parse(text: str, code: int) -> None:
    assert codes.parse(text) == code


@given(st.integers(0, 0xFFFF))
def test_numbers_parse_back(code: int) -> None:
    assert codes.parse(str(code)) == codes.parse(hex(code)) == code


@given(st.sampled_from(sorted(set(CODES) - {0x59, 0x96})), st.data())
def test_names_parse_back_in_any_case(code: int, data: st.DataObject) -> None:
    name = codes.name_of(code)
    upper = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    mixed = "".join(c.upper() if u else c.lower() for c, u in zip(name, upper, strict=True))
    assert codes.parse(mixed) == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "FlushVirtualAdressSpaceEx",
            'no hypercall is named "FlushVirtualAdressSpaceEx": did you mean '
            "HvCallFlushVirtualAddressSpaceEx or HvCallFlushVirtualAddressSpace or "
            "HvCallFlushVirtualAddressListEx?",
        ),
        # Nothing is near as a whole, but it is a part of names.
        (
            "ipi",
            'no hypercall is named "ipi": did you mean HvCallSendSyntheticClusterIpi or '
            "HvCallSendSyntheticClusterIpiEx?",
        ),
        ("xyzzy", 'no hypercall is named "xyzzy"; "hvtrace explain --list" shows all'),
        ("", 'no hypercall is named ""; "hvtrace explain --list" shows all'),
        ("0xzz", 'call code "0xzz" is not a number: write it as 0x13 or 19'),
        ("013", 'call code "013" is not a number: write it as 0x13 or 19'),
        ("0x10000", "call code 0x10000 is out of range: 0 to 0xffff (16 bits)"),
        ("-1", "call code -1 is out of range: 0 to 0xffff (16 bits)"),
    ],
)
def test_what_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(HvtraceError) as error:
        codes.parse(text)
    assert str(error.value) == message


def test_a_name_of_two_codes_is_not_guessed() -> None:
    assert codes.name_of(0x0059) == codes.name_of(0x0096) == "HvCallConnectPort"
    with pytest.raises(HvtraceError, match="name of 0x0059 and 0x0096: give the number"):
        codes.parse("ConnectPort")


@given(st.text(max_size=20))
def test_parse_never_fails_otherwise(text: str) -> None:
    with contextlib.suppress(HvtraceError):
        assert 0 <= codes.parse(text) <= 0xFFFF
