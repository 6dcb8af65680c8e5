"""A QEMU on KVM with the payload in it.

    with Qemu("win11", "host,hv-vpindex,hv-time,hv-tlbflush", words=["output"]) as vm:
        ...                   # it makes a round of calls on each vCPU every 0.1 s
        print(vm.pid, vm.ledger().calls)

The guest's memory is a file that both sides map: its ledger is read, and it is told what
to do, without an exit of the guest's.
"""

from __future__ import annotations

import mmap
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.vm.qemu import payload
from tests.vm.qemu.payload import KINDS, MOST_VCPUS, SHARED_AT, WORDS, Shared, Vcpu

MEMORY_BYTES = 32 << 20
PATIENCE_SECONDS = 60.0
FOREVER = 0xFFFFFFFF

Calls = Counter[tuple[int, bool, int]]
"""Calls by code, fast and status."""


@dataclass(frozen=True)
class Ledger:
    """What the guest's vCPUs made, by their own count, since they started.

    Attributes:
        rounds: that are complete, of each vCPU.
        vcpus: the calls of each; while rounds go on, those of the open one are in here.
        ipis: that arrived at each. Those that arrive at once are one.
    """

    rounds: tuple[int, ...]
    vcpus: tuple[Calls, ...]
    ipis: tuple[int, ...]

    @property
    def calls(self) -> Calls:
        """Of all vCPUs."""
        return sum(self.vcpus, Calls())


class Failed(Exception):
    """QEMU ended, or the payload did not get on; the text says what QEMU said."""


class Qemu:
    """One QEMU from `with` to the end of the block, as a user would start it."""

    def __init__(
        self,
        name: str,
        flags: str,
        vcpus: int = 2,
        words: Sequence[str] = (),
        rounds: int = FOREVER,
        uuid: str | None = None,
    ) -> None:
        """Nothing starts yet.

        Args:
            name: for -name.
            flags: for -cpu, such as "host,hv-vpindex,hv-tlbflush".
            vcpus: up to MOST_VCPUS; every one of them makes calls.
            words: of payload.WORDS: calls to make besides TLB flushes, where CPUID
                offers them.
            rounds: how many each vCPU makes before it idles; `run` adds more.
            uuid: for -uuid.
        """
        assert 1 <= vcpus <= MOST_VCPUS
        # In a QEMU list, a comma is written twice.
        names = f"guest={name.replace(',', ',,')},debug-threads=on"
        self._arguments = ["-name", names, "-cpu", flags, "-smp", str(vcpus)]
        self._arguments += [] if uuid is None else ["-uuid", uuid]
        self._vcpus = vcpus
        self._kinds = payload.bits([*payload.ALWAYS, *(WORDS[word] for word in words)])
        self._rounds = rounds
        self._stack = ExitStack()

    def __enter__(self) -> Qemu:
        """Start QEMU; back when every vCPU is up, and has made its first round, if any."""
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="hvtrace-qemu-"))
            stack.callback(shutil.rmtree, folder)
            self._shared = self._map(folder / "memory")
            self._log = folder / "log"
            self._process = self._start(folder)
            stack.callback(self._process.wait)
            stack.callback(self._process.kill)
            first = min(self._rounds, 1)
            self._wait(lambda vcpu: bool(vcpu.is_up) and vcpu.rounds >= first)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def pid(self) -> int:
        """Of QEMU's process."""
        return self._process.pid

    def threads(self) -> dict[int, int]:
        """Thread id -> number of its vCPU, by QEMU's own names of its threads."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            words = (task / "comm").read_text().replace("/", " ").split()
            if words[0] == "CPU":
                found[int(task.name)] = int(words[1])
        return found

    def ledger(self) -> Ledger:
        """The guest's own counts, now; at rest where all rounds are over."""
        vcpus = self._shared.vcpus[: self._vcpus]
        return Ledger(
            tuple(vcpu.rounds for vcpu in vcpus),
            tuple(_calls(vcpu) for vcpu in vcpus),
            tuple(vcpu.ipis for vcpu in vcpus),
        )

    def run(self, rounds: int) -> Ledger:
        """Let a guest that idles make so many more rounds on each vCPU; its ledger then.

        Raises:
            Failed: QEMU ended, or the rounds did not.
        """
        wanted = self._rounds = self._rounds + rounds
        assert wanted < FOREVER
        self._shared.rounds_wanted = wanted
        self._wait(lambda vcpu: vcpu.rounds >= wanted)
        return self.ledger()

    def _map(self, path: Path) -> Shared:
        """The guest's memory to be, with our wishes in it before there is a guest."""
        with path.open("wb+") as file:
            file.truncate(MEMORY_BYTES)
            memory = mmap.mmap(file.fileno(), MEMORY_BYTES)
        shared = Shared.from_buffer(memory, SHARED_AT)
        shared.wanted = self._kinds
        shared.rounds_wanted = self._rounds
        return shared

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        kernel = folder / "payload.elf"
        kernel.write_bytes(payload.image())
        command = [
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            # Not SeaBIOS: on emulated SVM one start in forty hangs in its 16-bit code.
            *("-accel", "kvm", "-bios", "qboot.rom", "-machine", "pc,memory-backend=memory"),
            *("-m", f"{MEMORY_BYTES >> 20}M", "-object"),
            f"memory-backend-file,id=memory,size={MEMORY_BYTES},share=on,mem-path={folder}/memory",
            *("-kernel", str(kernel), *self._arguments),
        ]
        with self._log.open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait(self, is_good: Callable[[Vcpu], bool]) -> None:
        """Until all vCPUs are as wanted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(is_good(vcpu) for vcpu in self._shared.vcpus[: self._vcpus]):
            status = self._process.poll()
            if status is not None:
                raise Failed(f"QEMU ended with status {status}: {self._log.read_text()}")
            if time.monotonic() > deadline:
                raise Failed(
                    f"the payload does not get on: {self.ledger()} {self._log.read_text()}"
                )
            time.sleep(0.02)


def _calls(vcpu: Vcpu) -> Calls:
    found = Calls()
    for kind, (code, fast) in enumerate(KINDS.values()):
        failed = vcpu.failed[kind]
        found[code, fast, 0] = vcpu.calls[kind] - failed
        found[code, fast, vcpu.status[kind]] += failed
    return +found
