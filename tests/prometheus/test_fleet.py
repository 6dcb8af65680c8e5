"""A small fleet of simulated hosts, and the configuration that docs/fleet.md shows, at work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import fleet, simulation
from benchmarks.fleet_page import fleet_queries
from benchmarks.hosts import SimulatedHost
from hvtrace.errors import HvtraceError
from hvtrace.lab.progress import Progress
from tests.prometheus import package
from tests.prometheus.package import Package
from tests.prometheus.server import Prometheus, running

ROOT = Path(__file__).parents[2]
SNIPPETS = dict(
    re.findall(
        r"^```yaml\n# (\S+\.yml).*?\n(.*?)^```", (ROOT / "docs/fleet.md").read_text(), re.M | re.S
    )
)
HOSTS, VMS, CODES = 7, 3, 5
EVERY = 1  # seconds


@pytest.fixture(scope="session", params=package.SUITES)
def each_package(request: pytest.FixtureRequest) -> Package:
    return package.find(request.param, Progress(sys.stderr))


@pytest.fixture(scope="session")
def newest() -> Package:
    return package.find(package.SUITES[-1], Progress(sys.stderr))


def hosts() -> list[SimulatedHost]:
    return [SimulatedHost(seed, VMS, CODES) for seed in range(HOSTS)]


@pytest.mark.parametrize("form", simulation.FORMS)
def test_what_prometheus_has_is_what_the_hosts_have_counted(
    newest: Package, tmp_path: Path, form: str
) -> None:
    with (
        simulation.Fleet(hosts()) as simulated,
        simulation.watched(
            simulated, newest, tmp_path, form, scrape_seconds=EVERY, rule_seconds=EVERY
        ) as prometheus,
    ):
        found = fleet.measure(simulated, prometheus, 5 * EVERY, EVERY)
        fleet.check_truth(simulated, prometheus, form, EVERY)
        assert simulated.calls()["calls"] > 10_007
        assert found["series of rules"] > HOSTS
        assert found["missed rule evaluations"] == 0
        recorded = prometheus.values("instance:hvtrace_vms:count", "instance")
        assert recorded == {(name,): VMS for name in simulated.urls}


class OneMore(simulation.Fleet):
    """Says that there was a call more than its hosts have counted."""

    def calls(self) -> dict[str, int]:
        found = super().calls()
        return found | {"calls": found["calls"] + 1}


def test_one_call_that_is_missing_is_seen(newest: Package, tmp_path: Path) -> None:
    with (
        OneMore([SimulatedHost(5, VMS, CODES)]) as simulated,
        simulation.watched(
            simulated, newest, tmp_path, "native", scrape_seconds=EVERY
        ) as prometheus,
        pytest.raises(HvtraceError, match="Prometheus has"),
    ):
        fleet.check_truth(simulated, prometheus, "native", EVERY)


class TestDocumented:
    """The YAML in docs/fleet.md."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """With all that the files name."""
        for name, text in SNIPPETS.items():
            (tmp_path / name).write_text(text)
        (tmp_path / "rules").symlink_to(ROOT / "grafana/rules")
        (tmp_path / "hosts").mkdir()
        addresses = [f"hv{i:03d}.example:10942" for i in range(97)]
        (tmp_path / "hosts/all.yml").write_text(yaml.safe_dump([{"targets": addresses}]))
        (tmp_path / "password").write_text("secret")
        certificate = [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca"),
            *("-keyout", "/dev/null", "-out", "ca.pem"),
        ]
        subprocess.run(certificate, cwd=tmp_path, check=True, capture_output=True)
        return tmp_path

    def test_all_are_found(self) -> None:
        assert sorted(SNIPPETS) == ["agent.yml", "global.yml", "shard.yml", "site.yml"]

    @pytest.mark.parametrize("name", SNIPPETS)
    def test_promtool_takes_it(self, each_package: Package, folder: Path, name: str) -> None:
        agent = ["--agent"] if name == "agent.yml" else []
        said = promtool(each_package, folder, "check", "config", *agent, name)
        assert "SUCCESS" in said

    def test_promtool_sees_what_is_wrong(self, newest: Package, folder: Path) -> None:
        text = SNIPPETS["shard.yml"].replace("hashmod", "hashmud")
        (folder / "shard.yml").write_text(text)
        with pytest.raises(AssertionError, match="hashmud"):
            promtool(newest, folder, "check", "config", "shard.yml")

    def test_each_host_is_in_one_shard(self, newest: Package, folder: Path) -> None:
        found: list[str] = []
        for shard in "012":
            text = SNIPPETS["shard.yml"].replace('"0"', f'"{shard}"')
            (folder / "shard.yml").write_text(text)
            command = ("check", "service-discovery", "--timeout=3s", "shard.yml", "hvtrace")
            said = json.loads(promtool(newest, folder, *command))
            kept = [one["labels"]["instance"] for one in said if one.get("labels")]
            assert 97 / 3 / 2 < len(kept) < 97 / 3 * 2
            found += kept
        assert sorted(found) == [f"hv{i:03d}.example:10942" for i in range(97)]


def promtool(which: Package, folder: Path, *arguments: str) -> str:
    command = [str(which.promtool), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class TestRemoteWrite:
    """site.yml and agent.yml between simulated hosts and a Prometheus that is the centre."""

    @pytest.fixture
    def simulated(self) -> Iterator[simulation.Fleet]:
        with simulation.Fleet(hosts()) as simulated:
            yield simulated

    @pytest.fixture
    def centre(self, newest: Package, tmp_path: Path) -> Iterator[Prometheus]:
        options = ("--web.enable-remote-write-receiver", simulation.NATIVE_FLAG)
        port = simulation.free_port()
        with running(newest, tmp_path / "centre", "{}", port, *options) as centre:
            yield centre

    @pytest.mark.parametrize(
        "message", ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"], ids=["1.0", "2.0"]
    )
    def test_an_agent_sends_all(
        self,
        newest: Package,
        tmp_path: Path,
        simulated: simulation.Fleet,
        centre: Prometheus,
        message: str,
    ) -> None:
        config = adapted("agent.yml", simulated, centre)
        config["remote_write"][0]["protobuf_message"] = message
        with agent(newest, tmp_path / "agent", config):
            until(lambda: centre.values("count(hvtrace_up)") == {(): HOSTS})
            fleet.check_truth(simulated, centre, "native", 2 * EVERY)
        assert centre.query("hvtrace_hypercall_duration_seconds_bucket") == []
        labels = centre.query("hvtrace_up")[0]["metric"]
        assert (labels["cluster"], labels["__replica__"]) == ("fra1", "a")

    def test_a_site_sends_what_is_recorded(
        self, newest: Package, tmp_path: Path, simulated: simulation.Fleet, centre: Prometheus
    ) -> None:
        config = adapted("site.yml", simulated, centre)
        config["rule_files"] = [f"{ROOT}/grafana/rules/*.yml"]
        text = yaml.safe_dump(config)
        port = simulation.free_port()
        with running(newest, tmp_path / "site", text, port, simulation.NATIVE_FLAG) as site:
            p99 = "count(instance_code:hvtrace_hypercall_duration_seconds:p99_rate5m)"
            until(lambda: centre.values(p99) == site.values(p99) != {})
            for query in fleet_queries().values():  # what is new here is there a moment later
                until(lambda query=query: len(centre.query(query)) == len(site.query(query)))
            here, there = names(site), names(centre)
        records = {name for name in here if ":" in name}
        assert {name for name in there if ":" in name} == records
        assert len(records) > 19
        plain = {
            "hvtrace_build_info",
            "hvtrace_kvm_info",
            "hvtrace_vm_info",
            "hvtrace_lost_total",
            "hvtrace_up",
            "up",
        }
        assert there - records - {"ALERTS"} == plain
        assert "hvtrace_hypercalls_total" in here


def adapted(name: str, simulated: simulation.Fleet, centre: Prometheus) -> dict[str, Any]:
    """A file of docs/fleet.md for these hosts and this centre, and in a hurry."""
    config: dict[str, Any] = yaml.safe_load(SNIPPETS[name])
    config["global"]["scrape_interval"] = f"{EVERY}s"
    if "evaluation_interval" in config["global"]:
        config["global"]["evaluation_interval"] = f"{EVERY}s"
    [job] = config["scrape_configs"]
    for key in ("file_sd_configs", "scheme", "tls_config", "basic_auth"):
        job.pop(key, None)
    addresses = [url.split("/")[2] for url in simulated.urls.values()]
    job["static_configs"] = [{"targets": addresses}]
    del job["relabel_configs"]  # all of them are on one host here
    config["remote_write"][0]["url"] = f"{centre.url}/api/v1/write"
    return config


@contextmanager
def agent(which: Package, folder: Path, config: dict[str, Any]) -> Iterator[None]:
    """An agent, until the end."""
    folder.mkdir()
    (folder / "agent.yml").write_text(yaml.safe_dump(config))
    command = [
        str(which.prometheus),
        "--agent",
        f"--config.file={folder / 'agent.yml'}",
        f"--storage.agent.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{simulation.free_port()}",
        simulation.NATIVE_FLAG,
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, (folder / "log").read_text()
    finally:
        process.terminate()
        process.wait()


def names(prometheus: Prometheus) -> set[str]:
    return set(prometheus.get("label/__name__/values"))


def until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)
