"""The dashboard on hvtrace itself: can its numbers be trusted, and what does it cost?"""

from __future__ import annotations

from collections.abc import Callable

from grafana_foundation_sdk.models import dashboard as model

from grafana.parts import (
    HOST,
    HOST_LINK,
    VALUE,
    WINDOW,
    Panel,
    Query,
    dashboard,
    datasource,
    figure,
    instance,
    job,
    now,
    query,
    rate,
    rows,
    series,
)


def itself() -> model.Dashboard:
    """Is everything counted, and at what cost?"""
    return dashboard(
        "hvtrace-itself",
        "hvtrace / hvtrace itself",
        "Whether the exporters count everything, and what they cost their hosts.",
        (datasource(), job(), instance()),
        (
            ("Now", _now()),
            ("What is not counted", _missing()),
            ("In the kernel", _kernel()),
            ("The exporter", _exporter()),
        ),
        hours=6,
    )


def _now() -> list[Panel]:
    return [
        figure(
            "Exporters that count",
            "Exporters that can read their counters. Fewer than hosts: see the table below.",
            "short",
            query(f"sum(hvtrace_up{{{HOST}}})", "exporters"),
        ),
        figure(
            "Programs that are attached",
            """BPF programs on their events, of all hosts. It moves where exporters start and end,
            and where KVM's module comes and goes.""",
            "short",
            query(f"sum(hvtrace_probe_attached{{{HOST}}})", "programs"),
        ),
        figure(
            "Slowest scrape",
            """Time that the slowest exporter takes to make a scrape. Prometheus gives up after ten
            seconds; above one, see the runbook, HvtraceScrapeSlow.""",
            "s",
            query(f"max(hvtrace_scrape_duration_seconds{{{HOST}}})", "slowest"),
            bad_from=1,
        ),
        figure(
            "Lost events (0 is good)",
            """What could not be counted in the last ten minutes, but for orphans. By reason it
            stands below.""",
            "short",
            query(
                f'sum(increase(hvtrace_lost_total{{{HOST},reason!="orphans"}}[10m]))', "lost events"
            ),
            bad_from=1,
        ),
        rows(
            "What is wrong (empty is good)",
            """Targets that do not answer, exporters without counters (the runbook has
            HvtraceExporterDown, HvtraceCountersUnreadable) and programs that are not attached.
            Empty is good: all is well.""",
            (
                ("job", "job", "string"),
                ("instance", "host", "string"),
                ("probe", "program not attached", "string"),
                ("Value #up", "answers", "short"),
                ("Value #read", "counters readable", "short"),
            ),
            now(f'up{{{HOST},job=~".*hvtrace.*"}} == 0', "up"),
            now(f"hvtrace_up{{{HOST}}} == 0", "read"),
            now(f"hvtrace_probe_attached{{{HOST}}} == 0", "attached"),
            links={"instance": HOST_LINK + VALUE},
            hidden=("__name__", "Value #attached"),
            height=5,
            nothing="All is well.",
        ),
    ]


def _missing() -> list[Panel]:
    return [
        series(
            "Lost events",
            """Events a second that could not be counted, by reason. All are 0, but for a few
            orphans after a start. no_slot and no_thread want a larger --slots; the runbook has
            the others, HvtraceLosses.""",
            "cps",
            query(rate("hvtrace_lost_total", HOST, "reason"), "{{reason}}"),
        ),
        series(
            "Beyond the limits",
            """What is summed up in "other" because a limit on VMs, codes or series was reached: 0
            is good. Totals stay right. The runbook, HvtraceSeriesDropped, says what to do.""",
            "cps",
            query(rate("hvtrace_series_dropped_total", HOST, "limit"), "{{limit}}"),
        ),
    ]


def _kernel() -> list[Panel]:
    cost = rate("hvtrace_probe_run_seconds_total", HOST, "probe")
    runs = rate("hvtrace_probe_runs_total", HOST, "probe")
    return [
        series(
            "Runs of programs",
            """How often hvtrace's programs run, in all hosts that measure it: twice a call, once
            more for a call that the VMM serves, and at each end of a thread. 0 where the kernel
            does not measure it: the exporter does with --probe-cost.""",
            "cps",
            query(runs, "{{probe}}"),
            width=8,
        ),
        series(
            "CPUs spent in programs",
            """CPU time that hvtrace takes from the hosts in the kernel, in CPUs. Compare it with
            the time in hypercalls: it is part of that. 0 where the kernel does not measure it.""",
            "suffix:CPUs",
            query(cost, "{{probe}}"),
            width=8,
        ),
        series(
            "Cost of a run",
            """Mean time of one run of a program. A hundred nanoseconds are normal; much more is a
            host whose caches or CPUs are under pressure. The measurement itself costs as much.
            Empty where all exporters run without --probe-cost.""",
            "s",
            query(f"{cost} / ({runs} > 0)", "{{probe}}"),
            width=8,
            log=True,
            nothing="The exporters run without --probe-cost.",
        ),
    ]


def _processes(of: Callable[[str], str]) -> tuple[Query, Query]:
    """`of` both processes of an exporter, by the prefix of their metrics: the ten with most."""
    # Where node_exporter reads a file of ours, process_* of that target are its own.
    ours = f"and on (job, instance) hvtrace_keeper_process_start_time_seconds{{{HOST}}}"
    return (
        query(f"topk(10, {of('hvtrace_keeper_process')})", "{{instance}} keeper", "keeper"),
        query(f"topk(10, {of('process')} {ours})", "{{instance}} server", "server"),
    )


def _exporter() -> list[Panel]:
    return [
        series(
            "Memory of the exporter",
            """Resident memory, where it is most: of the process that holds the counters (keeper),
            and of the one that serves HTTP. It is bounded: one that grows for days is a fault to
            report.""",
            "bytes",
            *_processes(lambda process: f"{process}_resident_memory_bytes{{{HOST}}}"),
            width=8,
        ),
        series(
            "CPU time of the exporter",
            """Share of a CPU that the busiest exporters use, almost all of it to make scrapes.
            Scrape less often, or by protobuf, where it is too much.""",
            "percentunit",
            *_processes(lambda process: f"rate({process}_cpu_seconds_total{{{HOST}}}{WINDOW})"),
            width=8,
        ),
        series(
            "Refused requests",
            """HTTP requests a second that were not answered, by reason: wrong password, too many
            at once, too slow, not HTTP. 0 but for who tries the port: look into the log which
            address it is.""",
            "cps",
            query(rate("hvtrace_http_refused_total", HOST, "reason"), "{{reason}}"),
            width=8,
        ),
    ]
