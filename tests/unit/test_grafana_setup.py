"""The files of a first look, and the recipe for an OpenTelemetry Collector."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from grafana import queries
from tests.unit.test_grafana_rules import ROOT

GRAFANA = ROOT / "grafana"
ADDRESS = "127.0.0.1:10942"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


COMPOSE = load(GRAFANA / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
PROMETHEUS = load(GRAFANA / "prometheus.yml")
SOURCE = load(GRAFANA / "provisioning/datasources/hvtrace.yaml")
PROVIDER = load(GRAFANA / "provisioning/dashboards/hvtrace.yaml")


def mounts(service: str) -> dict[str, str]:
    """What is mounted where: by the path inside."""
    parts = (volume.split(":") for volume in SERVICES[service]["volumes"])
    return {inside: outside for outside, inside, *_ in parts}


def check_config(path: Path) -> str:
    done = subprocess.run(
        ["promtool", "check", "config", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration_and_finds_the_rules() -> None:
    assert "3 rule files found" in check_config(GRAFANA / "prometheus.yml")
    (job,) = PROMETHEUS["scrape_configs"]
    assert "hvtrace" in job["job_name"]
    assert job["static_configs"] == [{"targets": [ADDRESS]}]


def test_scraped_is_where_the_exporter_listens_by_default() -> None:
    assert ADDRESS in (ROOT / "docs/exporter.md").read_text()
    assert SERVICES["exporter"]["command"] == ["exporter"]


def test_images_are_pinned_and_from_the_default_registry() -> None:
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    recipe = SERVICES["exporter"]["build"]["dockerfile_inline"]
    (base,) = re.findall(r"^FROM (\S+)", recipe, re.M)
    assert base == "debian:trixie-slim"
    assert len(images) == 2
    for image in images:
        assert re.fullmatch(r"\w+/\w+:v?\d+\.\d+\.\d+", image), image


def test_what_is_mounted_and_copied_is_there() -> None:
    for service in SERVICES:
        for outside in mounts(service).values():
            if outside.startswith("./"):
                assert (GRAFANA / outside).exists(), outside
            elif not outside.startswith("/sys/"):
                assert outside in COMPOSE["volumes"]
    build = SERVICES["exporter"]["build"]
    context = (GRAFANA / build["context"]).resolve()
    assert context == ROOT
    copied = [
        name
        for line in re.findall(r"^COPY (.+) \S+$", build["dockerfile_inline"], re.M)
        for name in line.split()
    ]
    assert {"pyproject.toml", "README.md", "LICENSE", "bpf", "hvtrace"} == set(copied)
    assert all((context / name).exists() for name in copied)


def test_everything_listens_on_loopback_only() -> None:
    assert all(service["network_mode"] == "host" for service in SERVICES.values())
    command = SERVICES["prometheus"]["command"]
    assert "--web.listen-address=127.0.0.1:9090" in command
    assert "--enable-feature=native-histograms" in command
    assert SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert SERVICES["grafana"]["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_prometheus_finds_its_files_in_the_container() -> None:
    inside = mounts("prometheus")
    config = Path("/etc/prometheus/prometheus.yml")
    assert f"--config.file={config}" in SERVICES["prometheus"]["command"]
    assert inside[str(config)] == "./prometheus.yml"
    (pattern,) = PROMETHEUS["rule_files"]
    assert inside[str((config.parent / pattern).parent)] == "./rules"
    assert len(list(GRAFANA.glob(pattern))) == 3
    assert "--storage.tsdb.path=/prometheus" in SERVICES["prometheus"]["command"]
    assert "/prometheus" in inside


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    assert mounts("grafana")["/etc/grafana/provisioning"] == "./provisioning"
    (source,) = SOURCE["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["url"] == "http://127.0.0.1:9090"
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    (provider,) = PROVIDER["providers"]
    folder = provider["options"]["path"]
    assert provider["type"] == "file"
    assert mounts("grafana")[folder] == "./dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (GRAFANA / "dashboards" / Path(home).relative_to(folder)).exists()
    assert SOURCE["apiVersion"] == PROVIDER["apiVersion"] == 1
    # A choice of a source that is there by that type.
    kinds = {one["type"]: one for one in queries.dashboards()[0]["templating"]["list"]}
    assert kinds["datasource"]["query"] == source["type"]


def test_collector_pipelines_are_made_of_what_is_configured() -> None:
    recipe = load(ROOT / "docs/otel-collector.yaml")
    assert set(recipe) == {"receivers", "processors", "exporters", "service"}
    assert set(recipe["service"]) == {"pipelines"}
    (pipeline,) = recipe["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert sorted(pipeline[kind]) == sorted(recipe[kind]), kind
    # The first keeps memory bounded, so it must see everything first.
    assert pipeline["processors"][0] == "memory_limiter"


def test_collector_scrapes_by_a_configuration_that_prometheus_takes(tmp_path: Path) -> None:
    text = (ROOT / "docs/otel-collector.yaml").read_text()
    scrape = yaml.safe_load(text)["receivers"]["prometheus"]["config"]
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(scrape))
    check_config(path)
    (job,) = scrape["scrape_configs"]
    (static,) = job["static_configs"]
    assert static["targets"] == [ADDRESS]
    # A collector replaces ${env:...} only; any other $ must be doubled.
    values = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert set(re.findall(r"\$\S*", "\n".join(values))) == {
        "${env:HOSTNAME}",
        "${env:OTLP_ENDPOINT}",
    }
