"""The verdicts counted by the programs against the rules in Python, call by call."""

from __future__ import annotations

import random

import pytest

from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.xmm import VERDICTS, is_xmm_input, verdict

SPIN = 0x08  # ends a call that is to stay unfinished


@pytest.mark.parametrize("can_output", [False, True])
def test_programs_and_python_agree_on_every_code(make_programs, can_output: bool) -> None:
    programs = make_programs(slots=1021, can_output=can_output)
    rng = random.Random(1009)
    seen = set()
    # So many codes fit into this thread's table as memory and as fast calls.
    always = {0x50, 0x46, 0x7777}
    for code in sorted({*rng.sample(sorted(set(CODES) - always - {SPIN}), 55), *always}):
        expected = dict.fromkeys(VERDICTS, 0)
        xmm_input = 0
        for _ in range(17):
            fast, var, rep = rng.random() < 0.9, rng.choice((0, 0, 1, 7)), rng.choice((0, 1, 4, 12))
            status = rng.choice((0, 0, 2, None))
            reps = rng.randint(0, rep) if status == 0 else 0
            programs.hypercall(code, fast=fast, var=var, rep=rep)
            if status is None:
                programs.hypercall(SPIN)  # closes it as unfinished
                programs.done()
            else:
                programs.done(status | reps << 32)
            name = verdict(
                code, fast, var, rep, reps_completed=reps, status=status, xmm_out_kernel=can_output
            )
            expected[name] += 1
            xmm_input += bool(is_xmm_input(code, fast, var, rep))
        got = [c for c in programs.calls() if c.code == code]
        counted = {v: sum(c.xmm_output.get(v, 0) for c in got) for v in VERDICTS}
        assert counted == expected, CODES.get(code)
        assert sum(c.xmm_input for c in got) == xmm_input
        seen |= {v for v, n in expected.items() if n}
    impossible_here = {"claimed"} if can_output else {"used-gpr", "used-xmm"}
    assert seen == set(VERDICTS) - impossible_here
