"""What the live view remembers: a small JSON file in the place that XDG says.

https://specifications.freedesktop.org/basedir-spec/: $XDG_CONFIG_HOME, else ~/.config.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hvtrace.top.columns import BY_KEY
from hvtrace.top.sheet import Grouping, Scope, View

MOST_BYTES = 65536

LONGEST_SECONDS = 60.0
"""A longer interval is only for who asks for it: a source has to keep for it what has ended."""

_GROUPINGS = {grouping.name.lower(): grouping for grouping in Grouping}
_SCOPES = {scope.value: scope for scope in Scope}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is kept from one run to the next. A filter is not: it would hide rows unasked."""

    view: View = field(default_factory=View)
    interval_seconds: float = 1.0


def parse(text: str) -> Settings:
    """Settings from JSON. What is unknown (of another version) is ignored; ValueError if broken."""
    said = json.loads(text)
    if not isinstance(said, dict):
        raise ValueError("no object")
    view = View()
    sort = said.get("sort", view.sort)
    hidden = said.get("hidden", [])
    descending = said.get("descending", view.descending)
    interval = said.get("interval_seconds", 1.0)
    if not isinstance(hidden, list) or not isinstance(sort, str):
        raise ValueError("columns are no names")
    if type(descending) is not bool or type(interval) not in (int, float):
        raise ValueError("no direction, or no interval")
    if not 0.1 <= interval <= LONGEST_SECONDS:
        raise ValueError("no interval of 0.1 to 60 seconds")
    known = View(
        grouping=_GROUPINGS.get(str(said.get("grouping")), view.grouping),
        scope=_SCOPES.get(str(said.get("scope")), view.scope),
        hidden=frozenset(str(key) for key in hidden) & BY_KEY.keys(),
    )
    if sort in BY_KEY:
        known = replace(known, sort=sort, descending=descending)
    return Settings(known, float(interval))


def text_of(settings: Settings) -> str:
    """What `parse` reads."""
    view = settings.view
    said = {
        "grouping": view.grouping.name.lower(),
        "scope": view.scope.value,
        "sort": view.sort,
        "descending": view.descending,
        "hidden": sorted(view.hidden),
        "interval_seconds": min(settings.interval_seconds, LONGEST_SECONDS),
    }
    return json.dumps(said, indent=2) + "\n"


def place(environ: Mapping[str, str]) -> Path | None:
    """The file; None where there is no home. A relative $XDG_CONFIG_HOME is ignored, as said."""
    config = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config):
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        config = os.path.join(home, ".config")
    return Path(config, "hvtrace", "top.json")


def load(path: Path | None) -> tuple[Settings, str]:
    """Settings, and what was wrong: "" for nothing, also where there is no file yet."""
    if path is None:
        return Settings(), ""
    try:
        with path.open("rb") as file:
            return parse(file.read(MOST_BYTES).decode()), ""
    except FileNotFoundError:
        return Settings(), ""
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not what hvtrace writes"
        return Settings(), f"{path} is not used: {why}"


def store(path: Path | None, settings: Settings) -> str:
    """Write them, whole or not at all; "" or why they are not kept."""
    if path is None:
        return "there is no home directory"
    try:
        folder = path.parent
        # With sudo, HOME may be that of the user: root leaves nothing of its own there.
        there = next(one for one in (folder, *folder.parents) if one.exists())
        if there.stat().st_uid != os.geteuid():
            return f"{there} is another user's"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".top-")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text_of(settings))
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
    return ""
