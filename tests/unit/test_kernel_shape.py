"""From format files to the places of fields."""

from __future__ import annotations

import pytest

from hvtrace.kernel import shape

# As tracefs of 7.2 has them.
FORMATS = {
    "kvm_hv_hypercall": """name: kvm_hv_hypercall
ID: 1543
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:__u16 rep_cnt;	offset:8;	size:2;	signed:0;
	field:__u16 rep_idx;	offset:10;	size:2;	signed:0;
	field:__u64 ingpa;	offset:16;	size:8;	signed:0;
	field:__u64 outgpa;	offset:24;	size:8;	signed:0;
	field:__u16 code;	offset:32;	size:2;	signed:0;
	field:__u16 var_cnt;	offset:34;	size:2;	signed:0;
	field:bool fast;	offset:36;	size:1;	signed:0;

print fmt: "code 0x%x %s", REC->code, REC->fast ? "fast" : "slow"
""",
    "kvm_hv_hypercall_done": "ID: 1544\n\tfield:__u64 result;\toffset:8;\tsize:8;\tsigned:0;\n",
    "kvm_userspace_exit": "ID: 1548\n\tfield:__u32 reason;\toffset:8;\tsize:4;\tsigned:0;\n"
    "\tfield:int errno;\toffset:12;\tsize:4;\tsigned:1;\n",
    "sched_process_exit": "ID: 301\n\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n"
    "\tfield:int errno;\toffset:99;\tsize:4;\tsigned:1;\n",
}
OLD = {
    **FORMATS,
    "kvm_hv_hypercall": FORMATS["kvm_hv_hypercall"].replace("var_cnt", "other"),
}


def test_records() -> None:
    found = shape.record(FORMATS)
    assert found.fields == {
        **{"code": 32, "fast": 36, "var_cnt": 34, "rep_cnt": 8},
        **{"result": 8, "reason": 8, "errno": 12},
    }


def test_flags_say_where_and_which_kind() -> None:
    assert shape.raw().flags == [
        "-DHVT_RECORD=0",
        *("-DHVT_CODE=0", "-DHVT_FAST=1", "-DHVT_VAR_CNT=2", "-DHVT_REP_CNT=3"),
        *("-DHVT_RESULT=0", "-DHVT_REASON=0", "-DHVT_ERRNO=1"),
    ]
    assert "-DHVT_RECORD=1" in shape.record(FORMATS).flags


def test_arguments_before_5_18() -> None:
    old = shape.raw(has_var_cnt=False)
    assert old.fields["rep_cnt"] == 2
    assert not any("VAR_CNT" in flag for flag in old.flags)


@pytest.mark.parametrize(
    ("release", "is_raw"),
    [
        ("5.15.0-1-amd64", True),
        ("6.1.0-50-amd64", True),
        ("6.12.107+deb13-amd64", True),
        ("6.19.9", True),
        ("7.0-rc1", False),
        ("7.2.13+deb14-amd64", False),
        ("10.1", False),
        ("unheard of", True),
    ],
)
def test_raw_where_it_is_exact(release: str, is_raw: bool) -> None:
    assert shape.choose(release, FORMATS).raw == is_raw


def test_prototype_comes_from_the_format_not_from_the_version() -> None:
    assert "var_cnt" not in shape.choose("6.12", OLD).fields
    assert "var_cnt" in shape.choose("5.10", FORMATS).fields
