"""What outlives the process: programs, maps and links, pinned in a folder of a BPF file system.

    hvt_map_NAME   hvt_program_NAME   hvt_link_NAME
    hvt_about      what these are; pinned last, removed first: without it they are of no use

The folder is locked as long as this process lives, so that one hvtrace at a time writes to
the maps. The kernel gives the lock back however the process ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from hvtrace import __version__
from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf, layout
from hvtrace.kernel.features import Features
from hvtrace.kernel.loader import Loaded
from hvtrace.kernel.programs import EVENTS, Job

_USUAL = Path("/sys/fs/bpf")
_BPFFS_MAGIC = 0xCAFE4A11  # include/uapi/linux/magic.h
_ABOUT, _ABOUT_BYTES = "hvt_about", 4096
_LINK = "hvt_link_"
_IDENTITIES = "identities"  # a map that no program knows


@dataclass(frozen=True, slots=True)
class About:
    """What is pinned."""

    layout: int
    version: str  # of the hvtrace that made it
    programs: str  # a fingerprint
    kvm: dict[str, str]  # what the programs took from this KVM: compiler flags
    options: dict[str, int | bool | None]  # what was asked for

    @classmethod
    def of(cls, job: Job, host: Features, **options: int | bool | None) -> About:
        """What is about to be loaded."""
        flags = [*host.shape.flags, *host.structures.flags]
        if options["round_trip"] and host.round_trip:
            flags += host.round_trip.flags
        kvm = dict(flag.removeprefix("-D").split("=") for flag in flags)
        return cls(layout.LAYOUT, __version__, job.fingerprint, kvm, options)

    @classmethod
    def parse(cls, data: bytes) -> About | None:
        """What `dump` made; None where it is not that."""
        try:
            found = cls(**json.loads(data.rstrip(b"\0")))
        except (ValueError, TypeError):
            return None
        kinds = {"layout": int, "version": str, "programs": str, "kvm": dict, "options": dict}
        good = all(isinstance(getattr(found, name), kind) for name, kind in kinds.items())
        return found if good else None

    def dump(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    def unlike(self, wanted: About) -> str | None:
        """Why counting cannot go on with this where `wanted` is; None: it can."""
        if self.layout != wanted.layout:
            return (
                f"hvtrace {self.version} keeps its counters in layout {self.layout},"
                f" this one in {wanted.layout}"
            )
        for name, value in wanted.options.items():
            before = self.options.get(name)
            if before != value:
                option = f"--{name.replace('_', '-')}"
                return f"{option} was {_said(before)} and is {_said(value)}"
        # What only one of two versions knows says nothing about KVM.
        if any(self.kvm[name] != wanted.kvm[name] for name in self.kvm.keys() & wanted.kvm.keys()):
            return "another KVM is loaded than the programs were made for"
        return None


def _said(value: int | None) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not given" if value is None else str(value)


class Pins:
    """A folder, ours while this is open."""

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        """Lock `folder`, which is made where it is missing (`make`). Raises HvtraceError."""
        self.folder = folder
        self._begun = False  # and not finished
        try:
            self._lock: int | None = _locked(folder, make)
        except OSError as error:
            raise HvtraceError(f"cannot use {folder}: {error.strerror}") from None

    def __enter__(self) -> Pins:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder: what is finished stays, an empty folder does not."""
        if self._lock is None:
            return
        if self._begun:
            self.clear()
        with suppress(OSError):
            self.folder.rmdir()
        os.close(self._lock)
        self._lock = None

    def names(self) -> list[str]:
        """Everything of ours in the folder."""
        return sorted(name for name in os.listdir(self.folder) if name.startswith("hvt_"))

    def about(self) -> About | None:
        """What is pinned here; None where that was never finished, or is not ours."""
        try:
            fd = bpf.pinned(self.folder / _ABOUT)
        except OSError:
            return None
        try:
            # No look-up: on Linux 7, one makes programs miss events.
            with mmap.mmap(fd, _ABOUT_BYTES) as memory:
                return About.parse(memory[:])
        except (OSError, ValueError):  # of another size, or not a map
            return None
        finally:
            os.close(fd)

    def carry_on(self, job: Job, wanted: About, say: Callable[[str], None]) -> Loaded | None:
        """What is pinned, where counting can go on with it.

        Else nothing is done yet; where something was pinned, `say` is told why it is of no use.
        """
        if not self.names():
            return None
        found = self.about()
        why = found.unlike(wanted) if found else "what is pinned there was never finished"
        loaded = None if why else self._loaded(job)
        if found is None or loaded is None:
            say(f"counting begins again in {self.folder}: {why or 'a part of it is gone'}")
        elif found.programs == wanted.programs:
            say(f"counting goes on in {self.folder}")
        else:
            say(
                f"counting goes on in {self.folder}, with the programs of hvtrace {found.version};"
                " to have this one's, `hvtrace unpin` it first"
            )
        return loaded

    def _loaded(self, job: Job) -> Loaded | None:
        """What is pinned of `job`; None where a part of it is not there."""
        found: dict[str, dict[str, int]] = {"program": {}, "map": {}}
        wanted = [("program", one.name) for one in job.programs]
        wanted += [("map", name) for name in (*job.maps, _IDENTITIES)]
        # KVM's links may have been let go of; without this one, threads have ended unseen.
        if _LINK + EVENTS[0] not in self.names():
            return None
        try:
            for kind, name in wanted:
                found[kind][name] = bpf.pinned(self.folder / f"hvt_{kind}_{name}")
        except OSError:
            Loaded(found["program"], found["map"]).close()
            return None
        return Loaded(found["program"], found["map"])

    def links(self) -> dict[str, int]:
        """The links that are pinned, by program."""
        names = [name for name in self.names() if name.startswith(_LINK)]
        return {name.removeprefix(_LINK): bpf.pinned(self.folder / name) for name in names}

    def begin(self, loaded: Loaded, threads: int) -> None:
        """Pin `loaded` in place of what was there; it gets a map for the identities of threads."""
        self.clear()
        self._begun = True
        loaded.maps[_IDENTITIES] = bpf.create_array(
            "hvt_identities", layout.IDENTITY.itemsize, threads
        )
        for kind, fds in (("map", loaded.maps), ("program", loaded.programs)):
            for name, fd in fds.items():
                self._pin(f"hvt_{kind}_{name}", fd)

    def finish(self, about: About) -> None:
        """All is pinned, attached and counts: from now on it stays."""
        fd = bpf.create_array(_ABOUT, _ABOUT_BYTES, 1)
        try:
            with mmap.mmap(fd, _ABOUT_BYTES) as memory:
                text = about.dump()
                memory[: len(text)] = text
            self._pin(_ABOUT, fd)
        finally:
            os.close(fd)
        self._begun = False

    def hold(self, program: str, link: int) -> None:
        """Pin a link."""
        self._pin(_LINK + program, link)

    def let_go(self, program: str) -> None:
        """A link is not to outlive its descriptors any more."""
        with suppress(FileNotFoundError):
            (self.folder / (_LINK + program)).unlink()

    def clear(self) -> None:
        """Remove everything of ours."""
        for first in (_ABOUT, _LINK, ""):
            for name in self.names():
                if name.startswith(first):
                    (self.folder / name).unlink()

    def _pin(self, name: str, fd: int) -> None:
        try:
            bpf.pin(fd, self.folder / name)
        except OSError as error:
            raise HvtraceError(f"cannot pin {self.folder / name}: {error.strerror}") from None


def folders() -> list[Path]:
    """Where counting outlives its process, if it is where others pin things, too."""
    return sorted(about.parent for about in _USUAL.glob(f"*/{_ABOUT}"))


def unpin(folder: Path) -> int:
    """Remove all that an hvtrace has pinned in `folder`: how much it was. Raises HvtraceError."""
    with Pins(folder, make=False) as pins:
        names = pins.names()
        pins.clear()
    if not names:
        raise HvtraceError(f"hvtrace has pinned nothing in {folder}")
    return len(names)


def _locked(folder: Path, make: bool) -> int:
    """The descriptor that holds the lock. Raises OSError, HvtraceError."""
    if not _is_bpffs(folder if folder.exists() else folder.parent):
        raise HvtraceError(
            f"{folder} is not in a BPF file system: name a folder in {_USUAL}"
            f" (where nothing is mounted: mount -t bpf bpf {_USUAL})"
        )
    while True:
        if make:
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(lock)
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise HvtraceError(f"others may write to {folder}, so what it holds is not trusted")
            # Who had it before us may have removed it as it was empty.
            with suppress(FileNotFoundError):
                if os.path.samestat(status, os.stat(folder)):
                    return lock
        except BlockingIOError:
            os.close(lock)
            raise HvtraceError(f"another hvtrace uses {folder}") from None
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _is_bpffs(folder: Path) -> bool:
    """Raises OSError where there is no such folder."""
    status = (ctypes.c_long * 32)()  # struct statfs, which begins with f_type
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), status):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(status[0]) == _BPFFS_MAGIC
