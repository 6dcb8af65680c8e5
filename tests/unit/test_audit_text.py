"""The audit for people and for machines: the whole of both forms, and what they must not do."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from audit_samples import OFFERED, VM, call, exit_, guest, having, host, refused, without
from goldens import check
from samples import START, vm

from hvtrace.audit import words
from hvtrace.audit.report import as_json
from hvtrace.audit.rules import RULES, SEVERITIES
from hvtrace.audit.text import render
from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.cpuid import BY_NAME, NOTHING, WORDS
from hvtrace.stats.snapshot import Lost
from hvtrace.stats.table import LOSSES

SCHEMA = Path(__file__).parents[2] / "docs" / "schema.md"


def sample():
    """A host and guests that show all there is to show."""
    slow = guest(
        calls=(
            call(0x02, 516_667),
            call(0x13, 101),
            call(0x5D, 9001, fast=True),
            call(0x5D, 11, fast=True, handler="vmm"),
            refused(0x50, 17),
            call(0x50, 3, fast=True, statuses={}, output={"impossible": 3}),
            call(0xFFF0, 3, statuses={"INVALID_HYPERCALL_CODE": 3}),
        ),
        cpuid=without(OFFERED, features_edx=4),
        flags=("hv-relaxed", "hv-vapic", "hv-spinlocks=0x1fff", "hv-vpindex", "hv-evmcs", "hv-ipi"),
    )
    old = guest(
        call(0x46, 7, fast=True, handler="vmm", output={"claimed": 7}),
        call(0x52, 11, fast=True, handler="vmm", output={"used-xmm": 11}),
        vm=vm("fedora", 1013, "hvtrace-guest", fd=11),
        vcpus=1,
        flags=None,
        enforced=True,
        cpuid=having(OFFERED, features_edx=15),
        exits=(exit_(0x52, 5, untouched=2),),
    )
    blind = guest(
        vm=vm("dark", 1019), vcpus=2, cpuid=None, enforced=None, hyperv=None, flags=(), calls=()
    )
    plain = guest(
        vm=vm("linux", 1021), cpuid=None, enforced=False, hyperv=False, flags=None, calls=()
    )
    notes = (
        "no BTF of KVM (/sys/kernel/btf/kvm): what is exposed is not known, nor what the exits of"
        " forwarded calls were",
    )
    return host(notes=notes), [slow, old, blind, plain], Lost(orphans=3, missed=5)


def test_text_is_the_golden_file_s():
    check("audit.txt", render(*sample()))


def test_json_is_the_golden_file_s():
    out = as_json(*sample(), START)
    check("audit.json", json.dumps(out, indent=1) + "\n")


# --- text


def test_no_line_is_too_long_nor_has_a_space_at_its_end():
    long = replace(VM, name="a" * 100, vmm="b" * 100)
    shown, guests, lost = sample()
    everything = (*WORDS, "hv-" + "x" * 90)
    longest = max(CODES, key=lambda code: len(CODES[code].name))
    wide = guest(*(call(code) for code in (longest, 0x14, 0x15)), vm=long, flags=everything)
    for line in render(shown, [*guests, wide], lost).splitlines():
        assert len(line) <= 80
        assert line == line.rstrip()


def test_color_is_for_severities_and_headings_only():
    plain, colored = render(*sample()), render(*sample(), color=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d*m", "", colored) == plain
    for severity, color in (("error", 31), ("warning", 33), ("advice", 36)):
        assert f"\x1b[{color}m{severity}\x1b[0m" in colored
    assert "\x1b[1mwin11" in colored


def test_what_comes_from_a_guest_s_owner_can_not_act_on_the_terminal():
    hostile = guest(vm=replace(VM, name="a\x1b[2J"), flags=("hv-\x07",))
    text = render(host(notes=("\x1b[0m",)), [hostile], Lost())
    assert "\x1b" not in text
    assert "\x07" not in text


def test_no_guests():
    assert render(host(), [], Lost()).startswith("No guests in 10.0s on Linux 6.12.0-fake\n")


def test_a_guest_in_good_order_says_so():
    lines = render(host(), [guest()], Lost()).splitlines()
    assert lines[0].startswith("1 guest in 10.0s")
    assert "  findings      none" in lines
    assert lines[-1] == "  findings      none"  # and nothing on losses


def test_forms_of_calls_are_shares():
    it = guest(calls=(call(0x02, 3), call(0x02, 1, fast=True), call(0x0B, 7, fast=True)))
    lines = [line.split() for line in render(host(), [it], Lost()).splitlines()]
    assert ["SendSyntheticClusterIpi", "42", "-", "100%", "-"] in lines
    assert ["FlushVirtualAddressSpace", "24", "75%", "-", "25%"] in lines


def test_what_the_kernel_offers_besides_is_shown():
    it = guest(cpuid=without(OFFERED, enlightenments_eax=10), flags=())
    assert "  not exposed   xmm-output, cluster-ipi" in render(host(), [it], Lost()).splitlines()
    lines = render(host(offered=None), [it], Lost()).splitlines()
    assert "  not exposed   xmm-output" in lines
    everything = guest(cpuid=having(OFFERED, features_edx=15))
    assert (
        "not exposed"
        not in render(host(), [everything], Lost()).split("advice")[0].split("warning")[0]
    )


def test_hyper_v_without_features():
    it = guest(cpuid=NOTHING, flags=())
    assert "  exposed       none of what hvtrace knows" in render(host(), [it], Lost())


def test_retries_of_a_spin_wait_are_shown():
    assert "spin-wait=0xfff" in render(host(), [guest()], Lost())


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_said(name):
    assert f"lost: 7 {LOSSES[name]}"[:60] in render(host(), [], Lost(**{name: 7}))


# --- words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04, "0"),
        (0.4, "0.4"),
        (6.0, "6"),
        (9.94, "9.9"),
        (9.96, "10"),
        (120, "120"),
        (999.4, "999"),
        (999.6, "1 k"),
        (3_100_002, "3.1 M"),
        (45_600_000, "46 M"),
        (7e9, "7 G"),
        (8e12, "8 T"),
    ],
)
def test_amounts(value, text):
    assert words.amount(value) == text


def test_lists():
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b"]) == "a and b"
    assert words.listed(list("abcd")) == "a, b, c and d"
    assert words.listed(list("abcde")) == "a, b, c and 2 others"


def test_a_code_without_a_name():
    assert (
        words.tally({0xFFF0: 3.0, 0x02: 5.0})
        == "5 FlushVirtualAddressSpace and 3 of 0xfff0 a minute"
    )
    assert words.names({0xFFF0: 3, 0x02: 5}) == "FlushVirtualAddressSpace and 0xfff0"


# --- JSON

GUEST = {
    "vm": dict,
    "vcpus": int,
    "hyperv": (bool, type(None)),
    "exposed": (dict, type(None)),
    "same_cpuid": bool,
    "enforced": (bool, type(None)),
    "flags": (list, type(None)),
    "calls": list,
    "exits": list,
    "findings": list,
}
FINDING = {
    "id": str,
    "severity": str,
    "text": str,
    "flag": (str, type(None)),
    "codes": list,
    "per_minute": (float, type(None)),
}


def made():
    return json.loads(json.dumps(as_json(*sample(), START)))


def test_keys_and_types():
    out = made()
    assert list(out) == [
        *("schema", "hvtrace", "kernel", "start", "duration_s", "host", "guests", "lost")
    ]
    for one in out["guests"]:
        assert list(one) == list(GUEST)
        assert all(isinstance(one[key], kind) for key, kind in GUEST.items())
        for found in one["findings"]:
            assert list(found) == list(FINDING)
            assert all(isinstance(found[key], kind) for key, kind in FINDING.items())
            assert (found["id"] in RULES, found["severity"] in SEVERITIES) == (True, True)


def test_what_the_kernel_keeps_is_there_word_for_word():
    first, _, blind, plain = made()["guests"]
    assert first["exposed"]["cpuid"] == asdict(without(OFFERED, features_edx=4))
    assert set(first["exposed"]["features"]) < BY_NAME.keys()
    assert "xmm-input" not in first["exposed"]["features"]
    assert blind["exposed"] is None
    assert plain["exposed"]["features"] == []


def test_a_descriptor_only_where_it_is_known():
    assert [list(one["vm"]) for one in made()["guests"][:2]] == [
        ["pid", "name", "vmm"],
        ["pid", "name", "vmm", "fd"],
    ]


def test_the_schema_s_document_has_every_key():
    section = SCHEMA.read_text(encoding="utf-8").partition("## `hvtrace audit --json`")[2]
    section = section.partition("\n## ")[0]
    keys = [*made(), *made()["host"], *GUEST, *FINDING]
    assert [key for key in keys if f"`{key}`" not in section] == []


def test_the_schema_s_document_has_every_feature_with_its_bits_and_flag():
    section = SCHEMA.read_text(encoding="utf-8").partition("Names in `features`")[2]
    named = re.findall(r"^\| `(.+)` \| (.+) \|(?: `(.+)`)? \|$", section, re.MULTILINE)
    assert named == [
        (one.name, one.where, (one.flag or "").partition("=")[0]) for one in BY_NAME.values()
    ]
