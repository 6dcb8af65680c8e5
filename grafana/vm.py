"""The VM dashboard: what one VM calls, how long it takes and by which convention."""

from __future__ import annotations

from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

from grafana.parts import (
    CALLS,
    HOST,
    VCPUS,
    VERDICTS,
    WANTED,
    Panel,
    dashboard,
    datasource,
    instance,
    job,
    latencies,
    occurring,
    quantile,
    query,
    rate,
    seconds_rate,
    series,
    variable,
)

TOTAL = "hvtrace_hypercalls_total"
TRIP = "hvtrace_hypercall_round_trip_seconds"
QUANTILES = ((0.5, "p50"), (0.99, "p99"))


def vm() -> model.Dashboard:
    """Why is this VM slow, and does it get what it asks for?"""
    guest = f'{HOST},vm=~"$vm"'
    return dashboard(
        "hvtrace-vm",
        "hvtrace / VM",
        "The hypercalls of one VM, or of several together.",
        (
            datasource(),
            job(),
            instance(),
            variable("vm", "VM", f"{TOTAL}{{{HOST}}}"),
            variable("code", "Call", f"{TOTAL}{{{guest}}}"),
        ),
        (
            ("Latency", _latency()),
            ("Calls", _calls()),
            ("Conventions", _conventions()),
            ("What goes wrong", _wrong()),
        ),
        hours=1,
    )


def _latency() -> list[Panel]:
    return [
        latencies(
            "Service times",
            """How many calls took how long, from the call to its completion. Two bands are two
            paths, such as KVM and the VMM; a cloud far above waits for CPU time. Choose a call at
            the top of the page to see it alone.""",
            CALLS,
        ),
        series(
            "Percentiles by handler",
            """Half, and 99 in a hundred, of the chosen calls that KVM serves, and of those that the
            VMM does, take no longer than this: two paths that cannot be one figure. Right to a
            factor of two, as the buckets are.""",
            "s",
            *(
                query(quantile(q, CALLS, "handler"), f"{{{{handler}}}} {name}", name)
                for q, name in QUANTILES
            ),
            log=True,
        ),
        series(
            "p99 by code",
            """One call in a hundred takes longer than this. Compare it with the same call of
            another VM: if both grew, it is the host.""",
            "s",
            query(quantile(0.99, CALLS, "code"), "{{code}}"),
            log=True,
        ),
        series(
            "Round trips",
            """From the exit that made a call to the vCPU's next entry, beside the service time:
            what is between the two is spent before and after the call, in KVM and the scheduler.
            Empty where the exporter runs without --round-trip.""",
            "s",
            query(quantile(0.5, CALLS, metric=TRIP), "round trip p50", "trip50"),
            query(quantile(0.99, CALLS, metric=TRIP), "round trip p99", "trip99"),
            log=True,
            nothing="The exporter runs without --round-trip.",
        ),
        series(
            "vCPU time in hypercalls",
            """Share of its time that each vCPU spends in hypercalls; the choice of a call does not
            matter here. One vCPU above the others does the interrupts or the I/O.
            Empty where the exporter runs without --vcpus.""",
            "percentunit",
            query(
                rate("hvtrace_vcpu_hypercall_seconds_total", f'{HOST},vm=~"$vm"', "vm, vcpu"),
                "{{vm}} vCPU {{vcpu}}",
            ),
            nothing="The exporter runs without --vcpus.",
        ),
    ]


def _calls() -> list[Panel]:
    return [
        series(
            "Calls by code",
            """Hypercalls a second. hvtrace explain says what a call is for. Many
            HvCallNotifyLongSpinWait: the vCPUs wait for locks whose holders do not run.""",
            "cps",
            query(rate(TOTAL, CALLS, "code"), "{{code}}"),
        ),
        series(
            "Time by code",
            """vCPUs' worth of time that each call costs this guest. What stands on top is worth
            looking at first.""",
            VCPUS,
            query(seconds_rate(CALLS, "code"), "{{code}}"),
        ),
    ]


def _conventions() -> list[Panel]:
    total = rate(TOTAL, CALLS)
    fast = rate(TOTAL, f'{CALLS},fast="true"')
    xmm_input = rate("hvtrace_hypercall_xmm_input_total", CALLS)
    return [
        series(
            "Who serves the calls",
            """Calls that KVM finishes in the kernel, and those for which it leaves to the VMM,
            which costs several times as much. A shift towards vmm is a change of KVM, VMM or
            guest.""",
            "cps",
            query(rate(TOTAL, CALLS, "handler"), "{{handler}}"),
            width=8,
            stack=common.StackingMode.PERCENT,
        ),
        series(
            "Fast and XMM input",
            """Share of calls with parameters in registers (fast), and with input in XMM registers.
            Fast calls spare KVM reading the guest's memory; hvtrace audit says whether the guest
            could make more of them.""",
            "percentunit",
            query(f"{fast} / {total}", "fast", "fast"),
            query(f"{xmm_input} / {total}", "XMM input", "xmm"),
            width=8,
        ),
        series(
            "Output in registers",
            """Calls that want output in registers, by verdict. refused: the guest does not get it,
            see hvtrace audit. claimed: it got success without its output; act at once.
            Empty where the guest makes no such calls.""",
            "cps",
            query(
                rate("hvtrace_hypercall_xmm_output_total", f"{CALLS},{WANTED}", "verdict"),
                "{{verdict}}",
            ),
            nothing="The guest wants no output in registers.",
            colors=VERDICTS,
            width=8,
        ),
    ]


def _wrong() -> list[Panel]:
    return [
        series(
            "Failures by status (empty is good)",
            """Completed calls a second whose status is not success. hvtrace explain --status says
            what it means. Empty is good: no call has failed.""",
            "cps",
            query(
                occurring("hvtrace_hypercall_failures_total", CALLS, "code, status"),
                "{{code}} {{status}}",
            ),
            nothing="No call has failed.",
        ),
        series(
            "Calls that never completed (empty is good)",
            """Calls that faulted, were superseded by the next, or were pending when their thread
            ended. One at the end of a VM is normal; more means that the guest makes calls it may
            not, or that the VMM completes them on another thread. Empty is good: all calls have
            completed.""",
            "cps",
            query(occurring("hvtrace_hypercall_unfinished_total", CALLS, "code"), "{{code}}"),
            nothing="All calls have completed.",
        ),
    ]
