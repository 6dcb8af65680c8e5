"""What a KVM's types, symbols and CPUID say of XMM output."""

from __future__ import annotations

import pytest

from hvtrace.hyperv.interface import KINDS, Interface, Part

STOCK = {"synic": Part(32), "hcall": Part(32, params_at=16), "syndbg": Part(48)}
GROWN = {**STOCK, "hcall": Part(128, params_at=16, xmm_at=32)}
NEW = {**STOCK, "hcall_xmm": Part(128, params_at=16, xmm_at=32)}
OTHER = {**STOCK, "vtl": Part(64)}


@pytest.mark.parametrize(
    ("interface", "kind"),
    [
        (Interface(exit_bytes=56, parts=STOCK), "none"),
        (Interface(exit_bytes=136, parts=GROWN), "grown"),
        (Interface(exit_bytes=136, parts=GROWN, offered=True), "grown"),
        (Interface(exit_bytes=136, parts=NEW, offered=True), "new-type"),
        # A new exit that carries no registers is none for hypercalls.
        (Interface(exit_bytes=72, parts=OTHER), "none"),
        (Interface(exit_bytes=56, parts=STOCK, offered=True), "unknown"),
        (Interface(exit_bytes=56, parts=STOCK, symbol="kvm_hv_write_xmm"), "unknown"),
        # Without BTF only CPUID and symbols speak.
        (Interface(), "none"),
        (Interface(offered=True), "unknown"),
    ],
)
def test_kinds(interface: Interface, kind: str) -> None:
    assert interface.kind == kind
    assert interface.in_kernel == (kind != "none")
    assert KINDS[kind] in interface.words


def test_structures_of_exit_types() -> None:
    stock, grown, new = (Interface(exit_bytes=136, parts=parts) for parts in (STOCK, GROWN, NEW))
    assert [stock.part(n) for n in range(5)] == [None, *STOCK.values(), None]
    assert grown.part(2) == Part(128, 16, 32)
    assert grown.part(4) is None
    assert new.part(2) == STOCK["hcall"]
    # No type information has the number: whatever is none of the old ones.
    assert new.part(4) == new.part(11) == NEW["hcall_xmm"]


def test_words_name_what_was_found() -> None:
    assert "136 bytes" in Interface(exit_bytes=136, parts=GROWN).words
    assert "CPUID bit not offered" in Interface(exit_bytes=56, parts=STOCK).words
    assert "cannot be read" in Interface(offered=True).words
