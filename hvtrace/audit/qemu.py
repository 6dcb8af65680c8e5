"""The Hyper-V flags of a QEMU command line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_ON, _OFF = ("on", "yes", "true", "y"), ("off", "no", "false", "n")


def hv_flags(arguments: Sequence[str]) -> tuple[str, ...]:
    """The hv-* options in force, as QEMU reads them: "hv-ipi", "hv-spinlocks=0x1fff".

    `arguments` is the whole command line. Of several -cpu the last counts, of
    several settings of one option too, but +option and -option beat option=on
    wherever they stand (x86_cpu_parse_featurestr). Options that are off are left
    out, underscores become dashes.
    """
    model = ""
    for option, value in pairwise(arguments):
        if option in ("-cpu", "--cpu"):
            model = value
    plain: dict[str, str] = {}
    signed: dict[str, str] = {}
    for item in model.split(",")[1:]:
        name, _, value = item.partition("=")
        name = name.replace("_", "-")
        if name[:1] in ("+", "-"):
            signed[name[1:]] = "on" if name[0] == "+" else "off"
        else:
            plain[name] = value or "on"
    merged = {name: value for name, value in (plain | signed).items() if name.startswith("hv-")}
    return tuple(
        name if value.lower() in _ON else f"{name}={value}"
        for name, value in merged.items()
        if value.lower() not in _OFF
    )
