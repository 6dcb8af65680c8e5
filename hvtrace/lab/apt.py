"""A private apt: one suite of Debian, with its own lists and cache, nothing installed.

The machine's own apt says where Debian is (mirror, keyring, proxy); its state is
neither read nor changed, and no privilege is needed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.lab import tools
from hvtrace.lab.progress import Progress

DEFAULT_URI = "http://deb.debian.org/debian"
SECURITY_URI = "http://deb.debian.org/debian-security"
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),  # trixie and later
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)
# A codename or a class; "bookworm-pgdg" is somebody else's archive.
_SUITE = re.compile(r"[a-z]+")
_NETWORK = re.compile(r"Acquire::(http|https|ftp|socks|Check-|Retries|ForceIPv|Queue)")
_SECURITY_SUITE = re.compile(r"[a-z]+-security")


@dataclass(frozen=True)
class Archive:
    """Where the packages of Debian come from, in apt's own words.

    Attributes:
        uri: what stands in a source entry ("http://...", "mirror+file:/...").
        signed_by: the entry's keyring, or the key itself (several lines); None
            leaves it to apt's trusted keys.
    """

    uri: str
    signed_by: str | None


@dataclass(frozen=True)
class Package:
    """One package as the suite has it; ``size_bytes`` is what must be downloaded."""

    name: str
    version: str
    depends: tuple[str, ...]
    size_bytes: int


def archive(etc: Path = Path("/etc/apt"), *, security: bool = False) -> Archive:
    """The Debian archive that this machine's apt uses, or the public one.

    Args:
        etc: apt's configuration folder.
        security: the archive of security updates instead of the main one.
    """
    keyring = next((str(path) for path in KEYRINGS if path.exists()), None)
    suite, default_uri = (_SECURITY_SUITE, SECURITY_URI) if security else (_SUITE, DEFAULT_URI)
    for uri, signed_by in _entries(etc, suite):
        return Archive(uri, signed_by or keyring)
    return Archive(default_uri, keyring)


def _entries(etc: Path, suite: re.Pattern[str]) -> Iterator[tuple[str, str | None]]:
    """(uri, signed-by) of each entry of Debian's that has such a suite.

    Debian's own files come first: other people's repositories may look alike.
    """
    parts = sorted((etc / "sources.list.d").glob("*"))
    parts.sort(key=lambda file: not file.name.startswith("debian"))
    for file in [etc / "sources.list", *parts]:
        if file.suffix not in {".list", ".sources"} or not file.is_file():
            continue
        read = _stanzas if file.suffix == ".sources" else _lines
        for fields in read(file.read_text(errors="replace")):
            if _is_debian(fields, suite):
                yield fields["uris"].split()[0], fields.get("signed-by")


def _is_debian(fields: Mapping[str, str], suite: re.Pattern[str]) -> bool:
    """Whether an entry is Debian's and has the suite: made of its words, signed by its key."""
    signed_by = fields.get("signed-by", "debian").strip()
    return (
        "deb" in fields.get("types", "").split()
        and "main" in fields.get("components", "").split()
        and any(suite.fullmatch(name) for name in fields.get("suites", "").split())
        and "debian" in fields.get("uris", "")
        and ("debian" in signed_by or not signed_by.startswith("/"))
        and fields.get("enabled", "yes") != "no"
    )


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """The entries of a deb822 file (sources.list(5)), by lower-case field name."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", kept):
        fields: dict[str, str] = {}
        for match in re.finditer(r"^(\S+?):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE):
            fields[match[1].lower()] = match[2].rstrip()
        if fields:
            yield fields


def _lines(text: str) -> Iterator[dict[str, str]]:
    """The entries of a one-line-style file, in the same form."""
    entry = re.compile(r"\s*(deb)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)")
    for line in text.splitlines():
        if match := entry.match(line):
            kind, options, uri, suite, components = match.groups()
            fields = {"types": kind, "uris": uri, "suites": suite, "components": components}
            for option in (options or "").split():
                name, _, value = option.partition("=")
                fields[name.lower()] = value
            yield fields


class PrivateApt:
    """apt for one suite, in a folder of its own (created when missing).

    Attributes:
        suite, uri: which one, and where from.
        sources: the same as the text of a file that apt reads (deb822).
        network: the user's way there (proxies and the like), as lines of an apt.conf.
    """

    def __init__(self, folder: Path, suite: str, source: Archive) -> None:
        self.suite = suite
        self.uri = source.uri
        self.sources = _source_text(suite, source)
        self._folder = folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "debian.sources").write_text(self.sources)
        dump = self._run("apt-config", "dump", private=False)
        self.network = [line for line in dump.splitlines() if _NETWORK.match(line)]
        (folder / "apt.conf").write_text(self._configuration())

    def update(self) -> None:
        """Fetch the suite's package list.

        Raises:
            HvtraceError: no apt here, no network, or a signature that does not hold.
        """
        self._run("apt-get", "update", "--error-on=any")

    def package(self, name: str) -> Package:
        """A package as the list fetched last has it.

        Raises:
            HvtraceError: the suite has no such package, or no list was fetched.
        """
        text = self._run("apt-cache", "show", "--no-all-versions", name)
        fields = next(_stanzas(text), {})
        if fields.get("package") != name:
            raise HvtraceError(f"Debian {self.suite} has no package {name}")
        alternatives = (part.split("|")[0].split() for part in fields.get("depends", "").split(","))
        return Package(
            name=name,
            version=fields["version"],
            depends=tuple(words[0] for words in alternatives if words),
            size_bytes=int(fields["size"]),
        )

    def download(self, packages: Sequence[Package], into: Path, progress: Progress) -> list[Path]:
        """Download packages into a folder; apt checks their hashes.

        Raises:
            HvtraceError: the download failed.
        """
        wanted = [f"{package.name}={package.version}" for package in packages]
        total_mb = sum(package.size_bytes for package in packages) / 1e6
        partial = self._folder / "cache/archives/partial"

        def tick() -> None:
            done_mb = (_size_bytes(into) + _size_bytes(partial)) / 1e6
            progress.count(f"  {done_mb:.0f} of {total_mb:.0f} MB")

        self._run("apt-get", "download", *wanted, cwd=into, tick=tick)
        return sorted(into.glob("*.deb"))

    def _configuration(self) -> str:
        """apt.conf: the user's way to the network, and everything else of our own.

        It is named by APT_CONFIG, which apt reads before its other files and which
        can therefore turn them off: their hooks, pins and extra indexes are for the
        machine, not for us.
        """
        here = str(self._folder)
        own = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": f"{here}/debian.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": f"{here}/state",
            "Dir::State::status": f"{here}/status",
            "Dir::Cache": f"{here}/cache",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            # root would hand the download to _apt, who may not write here.
            "APT::Sandbox::User": "root",
        }
        return "\n".join(
            [*self.network, *(f'{name} "{value}";' for name, value in own.items()), ""]
        )

    def _run(
        self,
        *command: str,
        cwd: Path | None = None,
        private: bool = True,
        tick: Callable[[], None] | None = None,
    ) -> str:
        """Run one of apt's programs; what it printed. ``tick`` is called while it runs."""
        program = shutil.which(command[0])
        if program is None:
            raise HvtraceError(
                f"{command[0]} is missing: the VM lab takes its kernels from Debian's archive;"
                " install apt, or give an installed kernel with --kernel RELEASE"
            )
        variables = {"APT_CONFIG": str(self._folder / "apt.conf")} if private else {}
        status, output, complaint = tools.run(
            [program, *command[1:]], cwd=cwd, variables=variables, tick=tick
        )
        if status:
            raise HvtraceError(
                f"{' '.join(command[:2])} failed for Debian {self.suite} at {self.uri}:"
                f" {first_error(complaint)}"
            )
        return output


def _source_text(suite: str, source: Archive) -> str:
    lines = [
        "Types: deb",
        f"URIs: {source.uri}",
        f"Suites: {suite}",
        "Components: main",
        "Targets: Packages",
    ]
    if source.signed_by:
        lines.append(f"Signed-By: {source.signed_by}")
    if suite == "sid":
        # A mirror that lags a week behind still has a kernel worth running.
        lines.append("Check-Valid-Until: no")
    return "\n".join([*lines, ""])


def _size_bytes(folder: Path) -> int:
    """What the packages in a folder come to; apt moves them about meanwhile."""
    total = 0
    for file in folder.glob("*.deb"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def first_error(text: str) -> str:
    """The line of apt's complaint that says why ("E: ..."), or the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[3:] for line in lines if line.startswith("E: ")]
    return (errors or lines or ["no reason given"])[-1 if not errors else 0]
