"""The views as a user starts them, all at once, on one run of real guests: same totals as made."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.vm.run import HVTRACE

Totals = Counter[tuple[str, bool, str]]  # name, fast, handler -> calls


@dataclass
class Views:
    """What each view said, and the truth."""

    ledger: dict[str, Any]
    stat: dict[str, Any]
    top: list[dict[str, Any]]
    metrics: str
    statuses: dict[str, int]  # of the processes


def start(*arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([HVTRACE, *arguments], stdout=pipe, stderr=pipe, text=True)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Views:
    folder = tmp_path_factory.mktemp("views")
    exporter = start("exporter", "--listen", "127.0.0.1:0")
    top = start("top", "--batch", "--json", "-i", "0.5")
    assert exporter.stderr is not None
    assert top.stdout is not None
    url = re.search(r"http://\S+", exporter.stderr.readline())[0]  # type: ignore[index]
    first = top.stdout.readline()  # attached by now
    guest = [HVTRACE, "guest", "--mix", "everything", "--ledger", str(folder / "ledger.json")]
    command = [HVTRACE, "stat", "--evidence", "--json", "-o", str(folder / "stat.json")]
    stat = subprocess.run([*command, "--", *guest], check=False)
    time.sleep(1.5)  # two more intervals of top
    metrics = urllib.request.urlopen(
        f"{url.rstrip('/')}/metrics".replace("/metrics/metrics", "/metrics")
    )
    text = metrics.read().decode()
    for process in (exporter, top):
        process.send_signal(signal.SIGINT)
    # Not communicate(): it knows nothing of what was read ahead with the first line.
    lines = [first, *top.stdout.read().splitlines()]
    top.wait(timeout=60)
    exporter.communicate(timeout=60)
    return Views(
        json.loads((folder / "ledger.json").read_text()),
        json.loads((folder / "stat.json").read_text()),
        [json.loads(line) for line in lines],
        text,
        {
            "stat": stat.returncode,
            "top": top.returncode,
            "exporter": exporter.returncode,
        },
    )


def totals(calls: list[dict[str, Any]]) -> Totals:
    found = Totals()
    for call in calls:
        found[f"{call['code']:#06x}", call["fast"], call["handler"]] += call["calls"]
    return found


def test_all_ended_well(views: Views) -> None:
    assert views.statuses == {"stat": 0, "top": 0, "exporter": 0}
    assert views.ledger["problems"] == []


def test_stat_counts_what_was_made(views: Views) -> None:
    assert totals(views.stat["calls"]) == totals(views.ledger["calls"])
    assert views.stat["kernel"] == views.ledger["kernel"]


def test_intervals_of_top_add_up_to_what_was_made(views: Views) -> None:
    assert sum((totals(o["calls"]) for o in views.top), Totals()) == totals(views.ledger["calls"])


def test_a_recording_of_top_replays_as_what_it_was(views: Views, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in views.top))
    replay = [HVTRACE, "top", "--batch", "--json", "--replay", str(path)]
    run = subprocess.run(replay, check=True, capture_output=True, text=True)
    again = [json.loads(line) for line in run.stdout.splitlines()]
    assert again == views.top
    assert sum(len(line["calls"]) for line in again) > 20
    assert run.stderr == ""


def test_metrics_add_up_to_what_was_made(views: Views) -> None:
    families = {f.name: f for f in text_string_to_metric_families(views.metrics)}
    made = views.ledger["calls"]
    assert sum(s.value for s in families["hvtrace_hypercalls"].samples) == sum(
        c["calls"] for c in made
    )
    assert sum(s.value for s in families["hvtrace_hypercall_failures"].samples) == sum(
        n for c in made for status, n in c["statuses"].items() if status != "0x0000"
    )
    counts = [
        s.value
        for s in families["hvtrace_hypercall_duration_seconds"].samples
        if s.name.endswith("_count")
    ]
    assert sum(counts) == sum(c["completed"] for c in made)


def test_verdicts_are_those_of_the_guests_in_every_view(views: Views) -> None:
    """Attempts and refusals; no use, for this KVM cannot, and nothing that was only claimed."""
    made = Counter[str]()
    for call in views.ledger["calls"]:
        made.update(call["xmm_output"])
    assert made["refused"] > 0 < made["impossible"]
    assert {v for v in made if v.startswith("used") or v == "claimed"} == set()
    counted, shown = Counter[str](), Counter[str]()
    for call in views.stat["calls"]:
        counted.update(call["xmm_output"])
    for interval in views.top:
        for call in interval["calls"]:
            shown.update(call["xmm_output"])
    families = {f.name: f for f in text_string_to_metric_families(views.metrics)}
    metric = Counter[str]()
    for sample in families["hvtrace_hypercall_xmm_output"].samples:
        metric[sample.labels["verdict"]] += int(sample.value)
    assert made == counted == shown == metric


def test_every_forwarded_call_left_by_the_exit_that_this_kvm_has(views: Views) -> None:
    made, seen = Counter[tuple[int, bool]](), Counter[tuple[int, bool]]()
    for call in views.ledger["calls"]:
        if call["handler"] == "vmm":
            made[call["code"], call["fast"]] += call["calls"]
    for one in views.stat["exits"]:
        assert (one["type"], one["size_bytes"], one["untouched"]) == (2, 32, 0)
        seen[one["code"], one["fast"]] += one["calls"]
    assert seen == made
    assert seen.total() > 0
    assert views.stat["lost"]["no_exit"] == 0


def test_metrics_say_what_this_kvm_can(views: Views) -> None:
    families = {f.name: f for f in text_string_to_metric_families(views.metrics)}
    [info] = families["hvtrace_kvm_info"].samples
    assert info.labels == {"xmm_output": "none", "offered": "false", "exit_bytes": "56"}


def test_losses_are_shown_alike(views: Views) -> None:
    orphans = sum(c["orphans"] for c in views.ledger["calls"])
    assert views.stat["lost"]["orphans"] == orphans > 0
    families = {f.name: f for f in text_string_to_metric_families(views.metrics)}
    lost = {s.labels["reason"]: s.value for s in families["hvtrace_lost"].samples}
    assert lost["orphans"] == orphans


def test_the_ledger_file_is_where_the_command_put_it(views: Views) -> None:
    assert Path(views.ledger["vms"][0]["name"]).name == "everything-0"
