"""Mixes in files.

A mix (hvtrace.guest.mix) is a TOML file, or JSON of the same shape: one of hvtrace/guest/mixes/
by its name, or any other by its path:

    about = "one line for people"
    rate = 0            # calls a second of one vCPU; 0: the whole table, as fast as it goes, once
    swing = 0.0         # with a rate: how far the load swings around it, 0 to 1
    primes = false      # every vCPU of a run makes its own prime number of each call

    [guest]
    withhold = []       # enlightenments not in the guest's CPUID (hvtrace.guest.cpuid.FEATURES)
    offer = []          # enlightenments in it though KVM does not offer them
    syndbg = "off"      # debugger: "off", "on", or "hypercalls" (the guest selects that transport)
    eventfd = []        # connections whose SignalEvent KVM serves itself
    vmm = "new"         # or "old": it leaves registers alone, whatever a call writes, and ends at
                        # an exit that is only for calls with output in registers

    [[call]]
    about = "one line"  # optional
    code = 0x0002       # with fast, var, reps, start: the fields of the input value
    fast = false
    var = 0
    reps = 0
    start = 0
    bits = 0            # more bits of the input value: reserved ones, nested
    rdx = 0
    r8 = 0              # with a block and no r8: the address of an empty page
    xmm = []            # XMM0-5 as up to 12 halves, low half first
    block = []          # parameters in memory, as 64-bit words; RDX is their address
    via = "page"        # KVM's hypercall page, own "vmcall" or "vmmcall", or from "user" mode
    times = 1           # calls a round; with a rate: its share
    enforce = false     # made while KVM enforces CPUID
    path = "kernel"     # what becomes of it, see below
    status = 0          # what the guest must get on path "kernel"
    answers = [0]       # what the VMM answers on the others, in turn: whole result values
    writes = {}         # {rdx = 5, r8 = 6, xmm1 = [7, 8], ...}: what the VMM writes into registers,
                        # and the guest must find there after a success, and only there; of an XMM
                        # register one half, the low one, or both
    xmm_input = false   # input longer than 16 bytes in registers
    xmm_output = "memory" or "none"  # else the verdict that a fast call with output deserves
    before = {}         # {release = "6.3", path = ..., status = ...}: on kernels older than that
    stock = {}          # what becomes of it on a KVM that offers no output in registers, with
                        # these defaults: {path = "kernel", status = 2, xmm_output = "refused"}

A path is one of: "kernel" (finished inside KVM), "fault" (#UD instead of a completion), "unseen"
(from ring 3: #UD before any event); or forwarded, and "vmm" (answered), "immediate-exit" (completed
by a KVM_RUN that does not enter the guest), "other-thread" (completed by a KVM_RUN of another
thread), "killed" (the VM ends before the answer; once, the last call of each vCPU).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from hvtrace.errors import HvtraceError
from hvtrace.guest.cpuid import FEATURES
from hvtrace.guest.memory import (
    MAX_ANSWERS,
    MAX_CONNECTIONS,
    MAX_EDITS,
    PAGE_BYTES,
    PATHS,
    REGISTER_WORDS,
    REGISTERS,
)
from hvtrace.guest.mix import (
    DELIVERED,
    FORWARDED,
    SITES,
    SYNDBG,
    VERDICTS,
    VMMS,
    Before,
    Call,
    Guest,
    Mix,
    Stock,
    version,
)

FOLDER = Path(__file__).with_name("mixes")

_U64 = (1 << 64) - 1
_WIDTHS = {"code": 16, "var": 10, "reps": 12, "start": 12, "status": 16}


def names() -> list[str]:
    """The mixes that come with hvtrace."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Mix:
    """A mix by name, or from the file of that path. Raises HvtraceError for a wrong one."""
    path = FOLDER / f"{name}.toml" if name in names() else Path(name)
    if path.suffix not in (".toml", ".json"):
        known = ", ".join(names())
        raise HvtraceError(f'no mix is named "{name}": take {known}, or a file (.toml, .json)')
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise HvtraceError(f"cannot read mix {name}: {reason}") from None
    except ValueError as error:
        raise HvtraceError(f"mix {name}: {error}") from None
    try:
        return parse(path.stem, data)
    except ValueError as error:
        raise HvtraceError(f"mix {name}: {error}") from None


def parse(name: str, data: object) -> Mix:
    """A mix from the values of its file. Raises ValueError, saying what is wrong where."""
    values = dict(_table(data))
    guest = _build(Guest, values.pop("guest", {}), "guest")
    _check_guest(guest)
    entries = values.pop("call", [])
    if not isinstance(entries, list) or not entries:
        raise ValueError("it needs at least one [[call]]")
    calls = [_call(entry, f"call {i}") for i, entry in enumerate(entries, start=1)]
    # Enforcement is switched once a round, and nothing follows the end of the VM.
    calls.sort(key=lambda call: (call.path == "killed", call.enforce))
    if sum(call.path == "killed" for call in calls) > 1:
        raise ValueError('only one call can be on path "killed"')
    for key in ("name", "calls"):
        if key in values:
            raise ValueError(f'unknown key "{key}"')
    mix = _build(Mix, {**values, "name": name, "calls": tuple(calls), "guest": guest}, "")
    if mix.rate < 0 or not 0 <= mix.swing <= 1:
        raise ValueError("rate must not be negative, and swing from 0 to 1")
    return mix


def _call(entry: object, where: str) -> Call:
    values = dict(_table(entry, where))
    if "before" in values:
        values["before"] = _build(Before, values["before"], f"{where}, before")
    if "stock" in values:
        values["stock"] = _build(Stock, values["stock"], f"{where}, stock")
    if "writes" in values:
        values["writes"] = tuple(_writes(values["writes"], f"{where}, writes"))
    call = _build(Call, values, where)
    verdict = call.xmm_output or ("none" if call.fast else "memory")
    call = replace(call, xmm_output=verdict)
    for problem in _problems(call):
        raise ValueError(f"{where} (0x{call.code:04x}): {problem}")
    return call


def _writes(data: object, where: str) -> Iterator[tuple[int, int]]:
    """Numbers and values of the words that `data` writes into registers."""
    for name, value in _table(data, where).items():
        words = range(REGISTER_WORDS)[REGISTERS.get(name, slice(0))]
        halves = value if isinstance(value, list) and len(words) == 2 else [value]
        if not words:
            raise ValueError(f'{where}: no register "{name}"; there are {", ".join(REGISTERS)}')
        if not halves or len(halves) > len(words) or {type(half) for half in halves} != {int}:
            raise ValueError(f"{where}: {name} cannot be {value!r}")
        yield from zip(words, halves, strict=False)


def _problems(call: Call) -> list[str]:
    """Everything wrong with a call whose values have the right types."""
    tests = [
        (call.path not in PATHS, f'path "{call.path}" is none of {", ".join(PATHS)}'),
        (call.via not in SITES, f'via "{call.via}" is none of {", ".join(SITES)}'),
        ((call.via == "user") != (call.path == "unseen"), 'via "user" goes with path "unseen"'),
        (call.xmm_output not in VERDICTS, f'no verdict "{call.xmm_output}" on XMM output'),
        (len(call.xmm) > REGISTER_WORDS - 2, "xmm has more than 12 halves"),
        (8 * len(call.block) > PAGE_BYTES, "block is longer than a page"),
        (bool(call.block) and call.fast, "a fast call has no block"),
        (call.times < 1, "times must be 1 or more"),
        (call.path == "killed" and call.times != 1, 'path "killed" happens once'),
        (not call.answers, "answers is empty"),
        (len(call.answers) > MAX_ANSWERS, f"more than {MAX_ANSWERS} answers"),
    ]
    tests += [
        (not 0 <= getattr(call, name) < 1 << bits, f"{name} does not fit {bits} bits")
        for name, bits in _WIDTHS.items()
    ]
    written = [value for _, value in call.writes]
    words = (call.bits, call.rdx, call.r8, *call.xmm, *call.block, *call.answers, *written)
    tests.append((not all(0 <= word <= _U64 for word in words), "a value does not fit 64 bits"))
    if call.writes:
        answered = call.fast and call.path in FORWARDED
        tests.append((not answered, "only to a fast call that is forwarded can the VMM write"))
        tests.append((not call.stock, "what the VMM writes needs stock: there it cannot"))
    if call.xmm_output in DELIVERED:
        failing = any(answer & 0xFFFF for answer in call.answers)
        tests.append((failing, f'xmm_output "{call.xmm_output}" with an answer that is a failure'))
    if call.before:
        tests.append((not _is_version(call.before.release), "release is not like 6.3"))
    if call.stock:
        verdict = call.stock.xmm_output
        tests.append((verdict not in VERDICTS, f'no verdict "{verdict}" on XMM output'))
    for other in (call.before, call.stock):
        if other and (other.path not in PATHS or other.path == "killed"):
            tests.append((True, f'no path "{other.path}" elsewhere'))
    return [text for wrong, text in tests if wrong]


def _is_version(text: str) -> bool:
    try:
        version(text)
    except ValueError:
        return False
    return True


def _check_guest(guest: Guest) -> None:
    for feature in (*guest.withhold, *guest.offer):
        if feature not in FEATURES:
            raise ValueError(f'guest: no feature "{feature}"; there are {", ".join(FEATURES)}')
    if len(guest.withhold) + len(guest.offer) > MAX_EDITS:
        raise ValueError(f"guest: more than {MAX_EDITS} features withheld and offered")
    if len(guest.eventfd) > MAX_CONNECTIONS:
        raise ValueError(f"guest: more than {MAX_CONNECTIONS} connections in eventfd")
    if guest.syndbg not in SYNDBG:
        raise ValueError(f'guest: syndbg "{guest.syndbg}" is none of {", ".join(SYNDBG)}')
    if guest.vmm not in VMMS:
        raise ValueError(f'guest: vmm "{guest.vmm}" is none of {", ".join(VMMS)}')


def _table(data: object, where: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where or 'the file'} is not a table")
    return data


T = TypeVar("T")
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "float": (int, float),
    "tuple[int, ...]": (list,),
    "tuple[str, ...]": (list,),
}


def _build(kind: type[T], data: object, where: str) -> T:
    """A dataclass from a table: every key known, every value of its field's type."""
    at = f"{where}: " if where else ""
    values = dict(_table(data, where))
    known = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise ValueError(f'{at}unknown key "{key}"')
        wanted = _KINDS.get(known[key])
        if wanted is None:
            continue  # built already
        item = known[key].removeprefix("tuple[").removesuffix(", ...]")
        right = isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))
        if right and list in wanted:
            right = all(type(v) in _KINDS[item] for v in value)
            values[key] = tuple(value)
        if not right:
            raise ValueError(f"{at}{key} must be {known[key]}, not {value!r}")
    try:
        return kind(**values)
    except TypeError:
        missing = next(name for name in ("code", "release") if name in known)
        raise ValueError(f"{at}{missing} is missing") from None
