"""The Host dashboard: the VMs of one host beside each other, and what they call."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from grafana.parts import (
    HOST,
    VALUE,
    VCPUS,
    VERDICTS,
    VM_LINK,
    WANTED,
    Panel,
    dashboard,
    datasource,
    figure,
    instance,
    job,
    now,
    occurring,
    quantile,
    query,
    rate,
    rows,
    seconds_rate,
    series,
)

TOTAL = "hvtrace_hypercalls_total"


def host() -> model.Dashboard:
    """Which VM is it, and which call?"""
    return dashboard(
        "hvtrace-host",
        "hvtrace / Host",
        "The hypercalls of one host's VMs.",
        (datasource(), job(), instance(multi=False)),
        (
            ("Now", _now()),
            ("VMs", _vms()),
            ("Calls", _calls()),
            ("What goes wrong", _wrong()),
        ),
        hours=1,
    )


def _now() -> list[Panel]:
    return [
        figure(
            "VMs",
            """VMs that make hypercalls, or did within five minutes. Fewer than run here: the
            others have no Hyper-V enlightenments, or are idle since hvtrace started.""",
            "short",
            query(f"count(hvtrace_vm_info{{{HOST}}})", "VMs"),
        ),
        figure(
            "Calls",
            """Hypercalls a second of all VMs. A step up is a VM that came or changed: which, stands
            below.""",
            "cps",
            query(rate(TOTAL, HOST), "calls"),
        ),
        figure(
            "Time in hypercalls",
            """vCPUs' worth of time that goes into hypercalls: 1 means that one vCPU does nothing
            else. See "Time by VM" for whose it is.""",
            VCPUS,
            query(seconds_rate(HOST), "vCPUs"),
        ),
        figure(
            "In flight",
            """Calls that are open at the moment of a scrape. A number that stays is as many vCPUs
            that wait for their VMM: look whether it hangs.""",
            "short",
            query(f"sum(hvtrace_hypercalls_in_flight{{{HOST}}})", "calls"),
        ),
    ]


def _vms() -> list[Panel]:
    return [
        series(
            "Calls by VM",
            """Hypercalls a second of each VM; click on a line to see the VM. One VM far above the
            others: see which call it is, there. What a new VM makes before its first scrape is in
            its totals and in no rate, as with every counter.""",
            "cps",
            query(rate(TOTAL, HOST, "vm"), "{{vm}}"),
            link=VM_LINK + "${__field.labels.vm}",
        ),
        series(
            "Time by VM",
            """vCPUs' worth of time that each VM spends in hypercalls. Divided by its number of
            vCPUs, this is the share of its time that hypercalls cost the guest.""",
            VCPUS,
            query(seconds_rate(HOST, "vm"), "{{vm}}"),
        ),
        rows(
            "All VMs",
            """Each VM of the last minutes, and what it calls; click on one for more. One that has
            ended stays for five minutes, with 0; one whose name has come again is name-pid.""",
            (
                ("vm", "VM", "string"),
                ("vmm", "VMM", "string"),
                ("pid", "pid", "string"),
                ("Value #rate", "calls/s", "cps"),
                ("Value #time", "vCPUs in calls", "short"),
                ("Value #p99", "p99", "s"),
                ("Value #failing", "failures/s", "cps"),
            ),
            now(f"sum by (vm, vmm, pid) (hvtrace_vm_info{{{HOST}}})", "info"),
            now(rate(TOTAL, HOST, "vm"), "rate"),
            now(seconds_rate(HOST, "vm"), "time"),
            now(f"({quantile(0.99, HOST, 'vm')}) >= 0", "p99"),
            now(rate("hvtrace_hypercall_failures_total", HOST, "vm"), "failing"),
            links={"vm": VM_LINK + VALUE},
            hidden=("Value #info",),
            most="calls/s",
            height=10,
        ),
    ]


def _calls() -> list[Panel]:
    return [
        series(
            "Calls by code",
            """Hypercalls a second of all VMs, by call. hvtrace explain says what a call is for, and
            which flag makes guests use it.""",
            "cps",
            query(rate(TOTAL, HOST, "code"), "{{code}}"),
        ),
        series(
            "p99 by code",
            """One call in a hundred takes longer than this. Calls of the VMM take tens of
            microseconds; one that takes milliseconds waits for something, often for CPU time.""",
            "s",
            query(quantile(0.99, HOST, "code"), "{{code}}"),
            log=True,
        ),
        series(
            "Calls that leave to the VMM",
            """Calls for which KVM exits to user space. They cost several times as much as those
            that KVM serves: a call that is new here has lost its in-kernel path.""",
            "cps",
            query(rate(TOTAL, f'{HOST},handler="vmm"', "code"), "{{code}}"),
        ),
        series(
            "Output in registers",
            """Calls that want output in registers, by verdict. refused: see hvtrace audit.
            claimed: the guest got success without its output; act at once.
            Empty where no guest makes such calls.""",
            "cps",
            query(
                rate("hvtrace_hypercall_xmm_output_total", f"{HOST},{WANTED}", "verdict"),
                "{{verdict}}",
            ),
            nothing="No guest wants output in registers.",
            colors=VERDICTS,
        ),
    ]


def _wrong() -> list[Panel]:
    return [
        series(
            "Failures by VM and status (empty is good)",
            """Completed calls a second whose status is not success. hvtrace explain --status says
            what it means, hvtrace audit which flag is missing. Empty is good: no call has
            failed.""",
            "cps",
            query(
                occurring("hvtrace_hypercall_failures_total", HOST, "vm, status"),
                "{{vm}} {{status}}",
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
            query(occurring("hvtrace_hypercall_unfinished_total", HOST, "vm"), "{{vm}}"),
            nothing="All calls have completed.",
        ),
    ]
