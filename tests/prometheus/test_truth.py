"""What real Prometheus servers have stored is what the guests say they have called."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from tests.prometheus.scene import SERVERS, Scene

pytestmark = pytest.mark.xdist_group("scene")

JOB = '{job="hvtrace"}'


def made(scene: Scene, what: str = "calls") -> Counter[tuple[str, ...]]:
    """Of the ledgers, by (vm, fast, handler) and the code's number."""
    found = Counter[tuple[str, ...]]()
    for call in scene.calls:
        fast = str(call["fast"]).lower()
        found[call["vm"]["name"], fast, call["handler"], call["code"]] += call[what]
    return +found


def test_versions(scene: Scene) -> None:
    """What the names above promise."""
    assert scene.servers["2.42"].package.version.startswith("2.42.")
    assert scene.servers["3"].package.version.startswith("3.")
    for server in scene.servers.values():
        [version] = {server.get("status/buildinfo")["version"].partition("+")[0]}
        assert version == server.package.version


@pytest.mark.parametrize("name", SERVERS)
def test_all_calls(scene: Scene, name: str) -> None:
    assert sum(made(scene).values()) > 4001
    total = scene.servers[name].value(f"sum(hvtrace_hypercalls_total{JOB})")
    assert total == sum(made(scene).values())


@pytest.mark.parametrize("name", SERVERS)
def test_calls_of_each_vm_by_convention_and_handler(scene: Scene, name: str) -> None:
    """By pid: two VMs had one name, one after the other, and who came and went while the
    exporter was away has none."""
    expected = Counter[tuple[str, ...]]()
    for call in scene.calls:
        fast = str(call["fast"]).lower()
        expected[str(call["vm"]["pid"]), fast, call["handler"]] += call["calls"]
    server = scene.servers[name]
    pid_of = {vm: pid for vm, pid in server.values(f"hvtrace_vm_info{JOB}", "vm", "pid")}
    assert len(pid_of) == len(set(pid_of.values())) == 5
    found = Counter[tuple[str, ...]]()
    query = f"sum by (vm, fast, handler) (hvtrace_hypercalls_total{JOB})"
    for (vm, *key), calls in server.values(query, "vm", "fast", "handler").items():
        found[pid_of[vm], *key] += int(calls)
    assert found == +expected


@pytest.mark.parametrize("name", SERVERS)
def test_failures_and_unfinished(scene: Scene, name: str) -> None:
    failures, unfinished, verdicts = Counter[str](), 0, Counter[str]()
    for call in scene.calls:
        failures.update({s: n for s, n in call["statuses"].items() if s != "0x0000"})
        verdicts.update(call["xmm_output"])
        unfinished += call["calls"] - call["completed"]
    server = scene.servers[name]
    assert server.value(f"sum(hvtrace_hypercall_failures_total{JOB})") == failures.total() > 0
    assert server.value(f"sum(hvtrace_hypercall_unfinished_total{JOB})") == unfinished > 0
    found = server.values(f"sum by (verdict) (hvtrace_hypercall_xmm_output_total{JOB})", "verdict")
    assert found == {(verdict,): calls for verdict, calls in verdicts.items()}


def test_histograms_hold_each_completed_call(scene: Scene) -> None:
    completed = sum(made(scene, "completed").values())
    classic = f"sum(hvtrace_hypercall_duration_seconds_count{JOB})"
    native = f"sum(histogram_count(hvtrace_hypercall_duration_seconds{JOB}))"
    assert scene.servers["2.42"].value(classic) == completed
    assert scene.servers["2.42-native"].value(native) == completed
    assert scene.servers["3"].value(native) == completed
    text = classic.replace('"hvtrace"', '"text"')
    assert scene.servers["3"].value(text) == completed


@pytest.mark.parametrize("name", ["2.42-native", "3"])
def test_one_series_instead_of_twenty(scene: Scene, name: str) -> None:
    """Who takes native histograms stores no classic bucket."""
    assert scene.servers[name].query(f"hvtrace_hypercall_duration_seconds_bucket{JOB}") == []
    assert scene.servers["2.42"].query("hvtrace_hypercall_duration_seconds_bucket") != []


@pytest.mark.parametrize("name", ["2.42-native", "3"])
@pytest.mark.parametrize("quantile", ["0.503", "0.907", "0.991"])
def test_native_and_classic_quantiles_agree(scene: Scene, name: str, quantile: str) -> None:
    """Both know only which power of two a call lies below: they name the same one.

    Where a quantile is that of a whole number of calls, it may be the end of one bucket or
    the beginning of the next; these are of no whole number.
    """
    by = ("code", "fast", "handler")
    metric = "hvtrace_hypercall_duration_seconds"
    native = f"histogram_quantile({quantile}, sum by ({', '.join(by)}) ({metric}{JOB}))"
    classic = f"sum by ({', '.join(by)}, le) ({metric}_bucket{JOB})"
    found = scene.servers[name].values(native, *by)
    expected = scene.servers["2.42"].values(f"histogram_quantile({quantile}, {classic})", *by)
    assert found.keys() == expected.keys()
    compared = 0
    for key, seconds in found.items():
        if math.isnan(seconds):  # nothing of it has completed
            assert math.isnan(expected[key])
            continue
        assert math.ceil(math.log2(seconds)) == math.ceil(math.log2(expected[key])), key
        compared += 1
    assert compared > 19


@pytest.mark.parametrize("name", ["2.42-native", "3"])
def test_sums_are_the_same_seconds(scene: Scene, name: str) -> None:
    native = f"sum(histogram_sum(hvtrace_hypercall_duration_seconds{JOB}))"
    classic = f"sum(hvtrace_hypercall_duration_seconds_sum{JOB})"
    assert scene.servers[name].value(native) == pytest.approx(
        scene.servers["2.42"].value(classic), rel=1e-12
    )


@pytest.mark.parametrize("name", SERVERS)
def test_time_of_vcpus_is_the_time_of_calls(scene: Scene, name: str) -> None:
    vcpus = scene.servers[name].value(f"sum(hvtrace_vcpu_hypercall_seconds_total{JOB})")
    server = scene.servers["2.42"]
    calls = server.value(f"sum(hvtrace_hypercall_duration_seconds_sum{JOB})")
    assert vcpus == pytest.approx(calls, rel=1e-9)


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_was_lost_but_what_the_guests_say(scene: Scene, name: str) -> None:
    lost = scene.servers[name].values(f"hvtrace_lost_total{JOB}", "reason")
    orphans = sum(call["orphans"] for call in scene.calls)
    assert lost[("orphans",)] == orphans
    assert sum(lost.values()) == orphans
    assert scene.servers[name].value(f"min(hvtrace_probe_attached{JOB})") == 1
    assert scene.servers[name].value(f"sum(hvtrace_probe_runs_total{JOB})") > 0


@pytest.mark.parametrize("name", SERVERS)
def test_a_kill_is_no_reset(scene: Scene, name: str) -> None:
    """The exporter was killed in the middle of it all, and what it counts went on in the kernel."""
    busy = 'hvtrace_hypercalls_total{job="hvtrace", vm="windows-busy-0"}'
    server = scene.servers[name]
    assert server.value("sum(changes(process_start_time_seconds[10m]))") > 0
    assert server.value(f"sum(resets({busy}[10m]))") == 0
    assert server.value(f"sum({busy})") > 101


@pytest.mark.parametrize("name", SERVERS)
def test_the_counters_could_always_be_read(scene: Scene, name: str) -> None:
    assert scene.servers[name].value("min(up)") == 1
    assert scene.servers[name].value("min(min_over_time(hvtrace_up[5m]))") == 1
    assert scene.servers[name].value("min(count_over_time(hvtrace_up[5m]))") > 3
