"""The collector between a source that one thread may use, and scrapes in many."""

from __future__ import annotations

import threading
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from samples import FakeSource, row, snapshot, vm

from hvtrace.errors import HvtraceError
from hvtrace.export.collector import SourceCollector
from hvtrace.stats.snapshot import Lost


def scrape(collector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_every_scrape_is_a_new_snapshot():
    source = FakeSource(
        snapshot([row(latencies_ns=[5] * 3)]), snapshot([row(latencies_ns=[5] * 7)])
    )
    collector = SourceCollector(source, print)
    assert "_count" in (first := scrape(collector))
    assert 'handler="kernel",vm="win11"} 3.0\n' in first
    assert 'handler="kernel",vm="win11"} 7.0\n' in scrape(collector)
    assert source.taken == 2


def test_registering_takes_no_snapshot():
    source = FakeSource(snapshot())
    CollectorRegistry().register(SourceCollector(source, print))
    assert source.taken == 0


def test_labels_are_kept_from_scrape_to_scrape():
    young, old = vm("a", 1013, start_time=9), vm("a", 1009, start_time=5)
    source = FakeSource(
        snapshot([row(young, latencies_ns=[5])]),
        snapshot([row(old, latencies_ns=[5]), row(young, latencies_ns=[5])]),
    )
    collector = SourceCollector(source, print)
    for _ in range(2):
        assert 'hvtrace_vm_info{name="a",pid="1013",uuid="",vm="a",' in scrape(collector)


class Moody(FakeSource):
    broken = False

    def snapshot(self):
        self.look()
        return super().snapshot()

    def look(self):
        if self.broken:
            raise HvtraceError("KVM went away")


def test_a_source_that_fails_is_an_answer_and_one_line():
    said: list[str] = []
    source = Moody(snapshot([row(latencies_ns=[5])]))
    collector = SourceCollector(source, said.append)
    assert "hvtrace_up 1.0\n" in scrape(collector)
    source.broken = True
    for _ in range(3):
        text = scrape(collector)
        assert "hvtrace_up 0.0\n" in text
        assert "hvtrace_build_info{" in text
        assert "hvtrace_hypercalls" not in text
    source.broken = False
    assert "hvtrace_up 1.0\n" in scrape(collector)
    assert said == ["the counters cannot be read: KVM went away", "the counters can be read again"]


@pytest.mark.parametrize("reason", ["no_slot", "no_thread"])
def test_want_of_room_is_said_once(reason):
    said: list[str] = []
    lost = [Lost(orphans=1, no_status=3), Lost(**{reason: 1}), Lost(**{reason: 2})]
    source = FakeSource(*(snapshot([row(latencies_ns=[5])], lost=one) for one in lost))
    collector = SourceCollector(source, said.append)
    scrape(collector)
    assert said == []
    for _ in range(2):
        scrape(collector)
    assert said == ["no room for all calls (hvtrace_lost_total): start with a larger --slots"]


def test_one_thread_at_a_time_uses_the_source():
    class Slow(FakeSource):
        inside = 0
        most = 0

        def snapshot(self):
            Slow.inside += 1
            Slow.most = max(Slow.most, Slow.inside)
            time.sleep(0.01)
            Slow.inside -= 1
            return super().snapshot()

    source = Slow(snapshot([row(latencies_ns=[5])]))
    collector = SourceCollector(source, print)
    threads = [threading.Thread(target=scrape, args=(collector,)) for _ in range(13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (source.taken, Slow.most) == (13, 1)
