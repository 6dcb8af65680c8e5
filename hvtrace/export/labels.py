"""The `vm` label: a VM's name, and never the same for two VMs at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat

from hvtrace.export.metrics import OTHER
from hvtrace.stats.vm import Identity, Vm


class VmLabels:
    """Gives each VM a label that it keeps.

    The first VM of a name bears the name, a further one that runs beside it
    "name-pid". A VM that has ended gives its name up to the next one that
    starts: a VM that is started anew goes on in its old series, which
    Prometheus takes for a counter that was reset.
    """

    def __init__(self) -> None:
        self._given: dict[Identity, str] = {}

    def assign(self, vms: Sequence[Vm]) -> list[str]:
        """Labels of `vms`, which are all that there are; others are forgotten."""
        here = {vm.identity: vm for vm in vms}
        self._given = {key: label for key, label in self._given.items() if key in here}
        # By age, so that a restart of the exporter finds the same labels.
        for vm in sorted(vms, key=lambda vm: (vm.ended, vm.start_time, vm.pid)):
            if vm.identity not in self._given:
                self._make_room(vm, here)
                self._given[vm.identity] = self._free_label(vm)
        return [self._given[vm.identity] for vm in vms]

    def _make_room(self, new: Vm, here: dict[Identity, Vm]) -> None:
        for identity, label in self._given.items():
            holder = here[identity]
            if label == new.name and holder.ended and not new.ended:
                self._given[identity] = ""  # free, while another is looked for
                self._given[identity] = self._free_label(holder, new.name)
                return

    def _free_label(self, vm: Vm, *reserved: str) -> str:
        label = vm.name
        for more in chain((vm.pid, vm.fd or 0), repeat(vm.start_time)):
            if label not in (OTHER, *reserved, *self._given.values()):
                break
            label += f"-{more}"
        return label
