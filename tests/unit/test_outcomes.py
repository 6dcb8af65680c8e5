"""The verdict on tests that ran elsewhere: only what ran and passed is good."""

from __future__ import annotations

import io

import pytest

from tests.outcomes import WIDTH, Lines, Outcome, read_report, summary

CASE = '<testcase classname="tests.vm.test_truth" name="{name}">{inner}</testcase>'


@pytest.fixture
def report(tmp_path):
    def write(**inner: str):
        cases = "".join(CASE.format(name=name, inner=text) for name, text in inner.items())
        file = tmp_path / "report.xml"
        file.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
        return file

    return write


def test_all_passed(report):
    outcome = read_report(report(test_a="", test_b=""), 0)
    assert outcome == Outcome(passed=2)
    assert outcome.is_good


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        ('<failure message="assert 2 == 3&#10; more"/>', "assert 2 == 3"),
        ('<error message="fixture"/>', "fixture"),
        ('<skipped message="no kvm"/>', "skipped: no kvm"),
        ("<failure>long text\nof it</failure>", "long text"),
        ("<failure/>", "no reason given"),
    ],
)
def test_bad_ones(report, inner, why):
    outcome = read_report(report(test_a="", test_b=inner), 1)
    assert outcome.passed == 1
    assert outcome.bad == (("tests.vm.test_truth::test_b", why),)
    assert not outcome.is_good


def test_a_test_that_fails_twice_is_one_test(report):
    both = '<failure message="a"/><error message="at its end"/>'
    outcome = read_report(report(test_a=both, test_b=""), 1)
    assert outcome.passed == 1
    assert len(outcome.bad) == 2


def test_no_report(tmp_path):
    outcome = read_report(tmp_path / "none.xml", 139)
    assert "status 139" in outcome.problem
    assert not outcome.is_good


def test_no_test(report):
    assert read_report(report(), 5).problem == "no test was found"


def test_a_status_that_no_test_explains(report):
    outcome = read_report(report(test_a=""), 2)
    assert outcome.problem == "pytest ended with status 2"
    assert not outcome.is_good


GOOD = Outcome(passed=13).titled("6.1.0-50-amd64 tests/vm", 61.4)


def test_summary_of_good_runs():
    text, is_good = summary([GOOD, GOOD], 72.6)
    assert is_good
    assert "ok   6.1.0-50-amd64 tests/vm" in text
    assert " 26 passed in 73 s " in text
    assert all(len(line) <= WIDTH for line in text.splitlines())


@pytest.mark.parametrize(
    "other",
    [
        Outcome(passed=12, bad=(("tests::test_x", "assert 0"),)),
        Outcome(passed=12, problem="pytest ended with status 2"),
        Outcome(problem="the VM's kernel panicked"),
        Outcome(),
    ],
)
def test_one_bad_run_spoils_it(other):
    text, is_good = summary([GOOD, other.titled("7.2 tests/vm", 1)], 61)
    assert not is_good
    assert "FAIL 7.2 tests/vm" in text
    assert "1 failed, " in text
    for test, why in other.bad:
        assert test in text
        assert why in text
    assert other.problem in text


def test_nothing_is_not_good():
    assert not summary([], 0)[1]


def test_lines_are_whole_and_named():
    out = io.StringIO()
    lines = Lines("6.1 | ", out)
    lines.show(b"tests/vm/a.py .")
    assert out.getvalue() == ""
    lines.show(b".\r\nsecond\nlast")
    assert out.getvalue() == "6.1 | tests/vm/a.py ..\n6.1 | second\n"
    lines.release()
    lines.release()
    assert out.getvalue().endswith("second\n6.1 | last\n")


def test_a_character_that_comes_in_two_pieces():
    out = io.StringIO()
    lines = Lines("", out)
    lines.show(b"2 \xc2")
    lines.show(b"\xb5s\n")
    assert out.getvalue() == "2 \u00b5s\n"
