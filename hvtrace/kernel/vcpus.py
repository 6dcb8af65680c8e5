"""The Hyper-V CPUID of vCPUs, read from KVM's own cache of it.

KVM's event kvm_entry has the vCPU as an argument. A program stands on it for as long
as there are vCPUs that were not seen, and reads each once: a guest that is known costs
nothing more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.cpuid import WORDS, Cpuid
from hvtrace.kernel import bpf, layout
from hvtrace.kernel.loader import Loaded
from hvtrace.kernel.programs import VCPUS


@dataclass(frozen=True, slots=True)
class Vcpu:
    """One vCPU, as its thread entered the guest."""

    pid: int
    tid: int
    number: int  # KVM's vcpu_id: unique in its VM only
    cpuid: Cpuid | None  # None: no Hyper-V in its CPUID
    enforced: bool  # KVM_CAP_HYPERV_ENFORCE_CPUID


class Vcpus:
    """Looks at vCPUs; not attached until `look`."""

    def __init__(self, loaded: Loaded, words: Sequence[str]) -> None:
        """`loaded` has the program and its map; `words` are those of KVM's cache, in its order."""
        self._words = words
        self._program, self._map = loaded.programs[VCPUS.name], loaded.maps["vcpus"]
        self._link: int | None = None

    def look(self) -> None:
        """From now on, see the vCPUs that enter their guests."""
        if self._link is None:
            try:
                self._link = bpf.attach_raw_tracepoint(self._program, VCPUS.target)
            except OSError as error:
                raise HvtraceError(f"cannot attach to {VCPUS.target}: {error.strerror}") from None

    def rest(self) -> None:
        """Cost nothing any more; what was seen stays."""
        if self._link is not None:
            os.close(self._link)
            self._link = None

    def seen(self) -> dict[int, Vcpu]:
        """All vCPUs seen, by thread id."""
        items = bpf.items(self._map, 4, layout.VCPU.itemsize)
        return {
            (tid := int.from_bytes(key, "little")): self._vcpu(tid, value) for key, value in items
        }

    def _vcpu(self, tid: int, value: bytes) -> Vcpu:
        found = np.frombuffer(value, dtype=layout.VCPU)[0]
        words = dict(zip(self._words, found["cpuid"].tolist(), strict=False))
        cpuid = Cpuid(**{name: words.get(name) for name in WORDS})
        return Vcpu(
            pid=int(found["tgid"]),
            tid=tid,
            number=int(found["vcpu_id"]),
            cpuid=cpuid if found["hyperv"] else None,
            enforced=bool(found["enforced"]),
        )
