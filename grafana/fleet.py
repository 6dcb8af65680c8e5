"""The Fleet dashboard: all hosts, from series without `vm` and `le`, cheap for a thousand."""

from __future__ import annotations

from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

from grafana.parts import (
    HOST_LINK,
    JOB,
    VALUE,
    VCPUS,
    VERDICTS,
    WANTED,
    Panel,
    dashboard,
    datasource,
    figure,
    job,
    now,
    query,
    rows,
    series,
)

RATE = "instance:hvtrace_hypercalls:rate5m"
BUSIEST = f"topk(20, sum by (job, instance) ({RATE}{{{JOB}}}))"
TIME = "instance_code:hvtrace_hypercall_duration_seconds:sum_rate5m"
P99 = "instance_code:hvtrace_hypercall_duration_seconds:p99_rate5m"
FAILURES = "instance_code:hvtrace_hypercall_failures:rate5m"


def fleet() -> model.Dashboard:
    """Is anything wrong, where, and what do all guests call?"""
    return dashboard(
        "hvtrace-fleet",
        "hvtrace / Fleet",
        """Hypercalls of all hosts. It reads what grafana/rules/records.yml records, so these rules
        must be loaded; all other dashboards work without them.""",
        (datasource(), job()),
        (("Now", _now()), ("Calls", _calls()), ("What goes wrong", _wrong()), ("Hosts", _hosts())),
        hours=6,
    )


def _now() -> list[Panel]:
    return [
        figure(
            "Hosts",
            """Hosts whose hypercalls are counted now. Compare it with the number of hosts that
            should be here: one that is not scraped at all is missing without a sound.""",
            "short",
            query(f"sum(hvtrace_up{{{JOB}}})", "hosts"),
        ),
        figure(
            "VMs",
            """VMs that make hypercalls, or did within five minutes. A VM without Hyper-V
            enlightenments makes none and is not here.""",
            "short",
            query(f"sum(instance:hvtrace_vms:count{{{JOB}}})", "VMs"),
        ),
        figure(
            "Time in hypercalls",
            """vCPUs' worth of time that goes into hypercalls: 3 means that three vCPUs do nothing
            else. What it is spent on stands below.""",
            VCPUS,
            query(f"sum({TIME}{{{JOB}}})", "vCPUs"),
        ),
        figure(
            "Lost events (0 is good)",
            """What hvtrace could not count in the last ten minutes, but for orphans. Any loss
            makes totals too small: see "Lost events" of the dashboard hvtrace itself.""",
            "short",
            query(
                f'sum(increase(hvtrace_lost_total{{{JOB},reason!="orphans"}}[10m]))', "lost events"
            ),
            bad_from=1,
        ),
        rows(
            "Alerts (empty is good)",
            """Alerts of hvtrace that fire now. Each has a section in docs/runbook.md.
            Empty is good: no alert fires.""",
            (
                ("severity", "severity", "string"),
                ("alertname", "alert", "string"),
                ("instance", "host", "string"),
                ("code", "call", "string"),
                ("vm", "VM", "string"),
            ),
            now(
                """sum by (severity, alertname, instance, code, vm)
                (ALERTS{alertname=~"Hvtrace.+",alertstate="firing"})""",
                "A",
            ),
            links={"instance": HOST_LINK + VALUE},
            height=5,
            nothing="No alert fires.",
        ),
    ]


def _calls() -> list[Panel]:
    return [
        series(
            "Calls by code",
            """Hypercalls a second of the whole fleet. A step up is more guests, or guests that do
            something else than before: look which hosts of the table below changed with it.""",
            "cps",
            query(f"sum by (code) (code:hvtrace_hypercalls:rate5m{{{JOB}}})", "{{code}}"),
        ),
        series(
            "Time by code",
            """vCPUs' worth of time that each call costs the fleet. Frequent calls are often not
            the costly ones: what stands on top here is worth looking at first.""",
            VCPUS,
            query(f"sum by (code) ({TIME}{{{JOB}}})", "{{code}}"),
        ),
        series(
            "p99 of the slowest host",
            """The 99th percentile of each call on the host where it is slowest. Percentiles of
            hosts cannot be added, so this is not the fleet's: it shows that a host is bad.""",
            "s",
            query(f"max by (code) ({P99}{{{JOB}}})", "{{code}}"),
            log=True,
        ),
        series(
            "Who serves the calls",
            """Calls that KVM finishes in the kernel, and those for which it leaves to the VMM,
            which costs several times as much. A shift towards vmm is a change of KVM, VMM or
            guest.""",
            "cps",
            query(
                f"sum by (handler) (instance_fast_handler:hvtrace_hypercalls:rate5m{{{JOB}}})",
                "{{handler}}",
            ),
            stack=common.StackingMode.PERCENT,
        ),
    ]


def _wrong() -> list[Panel]:
    return [
        series(
            "Failures by status (empty is good)",
            """Completed calls a second whose status is not success. Some guests probe and fail on
            purpose; what stays is a fault of guest, VMM or flags: hvtrace explain --status tells.
            Empty is good: no call has failed.""",
            "cps",
            query(
                f"sum by (status) (status:hvtrace_hypercall_failures:rate5m{{{JOB}}}) > 0",
                "{{status}}",
            ),
            nothing="No call has failed.",
        ),
        series(
            "Output in registers",
            """Verdicts on calls that want output in registers. refused: a guest did not get it.
            claimed: a guest got success without output, which corrupts data; act at once. used:
            the KVM can do it. Empty where no guest makes such calls.""",
            "cps",
            query(
                f"""sum by (verdict)
                (instance_verdict:hvtrace_hypercall_xmm_output:rate5m{{{JOB},{WANTED}}})""",
                "{{verdict}}",
            ),
            nothing="No guest wants output in registers.",
            colors=VERDICTS,
        ),
    ]


def _hosts() -> list[Panel]:
    there = f"and {BUSIEST}"
    failing = f"sum by (job, instance) ({FAILURES}{{{JOB}}})"
    calls = f"sum by (job, instance) ({RATE}{{{JOB}}})"
    return [
        rows(
            "Busiest hosts",
            """The twenty hosts with most hypercalls a second; click on one to see its VMs. A host
            with few VMs and much time in calls is worth a look, and so is one that fails.""",
            (
                ("job", "job", "string"),
                ("instance", "host", "string"),
                ("Value #rate", "calls/s", "cps"),
                ("Value #time", "vCPUs in calls", "short"),
                ("Value #vms", "VMs", "short"),
                ("Value #p99", "worst p99", "s"),
                ("Value #failing", "failing", "percentunit"),
            ),
            now(BUSIEST, "rate"),
            now(f"sum by (job, instance) ({TIME}{{{JOB}}}) {there}", "time"),
            now(f"sum by (job, instance) (instance:hvtrace_vms:count{{{JOB}}}) {there}", "vms"),
            now(f"max by (job, instance) ({P99}{{{JOB}}}) {there}", "p99"),
            now(f"{failing} / ({calls} > 0) {there}", "failing"),
            links={"instance": HOST_LINK + VALUE},
            most="calls/s",
            height=14,
        ),
    ]
