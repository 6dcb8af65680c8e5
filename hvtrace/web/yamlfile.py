"""YAML files of few, known keys: what is not known, or is there twice, is never overlooked."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable
from typing import Any

import yaml

from hvtrace.errors import HvtraceError

# Go's time.ParseDuration
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_QUANTITY = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)


class Section:
    """A mapping of the file, with keys that are known. All methods raise HvtraceError."""

    def __init__(self, name: str, value: object, known: Collection[str] | None) -> None:
        """`name` is the section's, "" for the whole file; `known` None takes every key."""
        if not isinstance(value, dict | None):
            raise HvtraceError(f"{name or 'the file'} must have keys and values")
        self.name = name
        self._values: dict[str, Any] = value or {}
        for key in self._values:
            if not isinstance(key, str):
                raise HvtraceError(f"{name}: put {key!r} in quotes")
            if known is not None and key not in known:
                raise HvtraceError(f'unknown key "{key}"{f" in {name}" if name else ""}')

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def section(self, key: str, known: Collection[str] | None) -> Section:
        """The section of this name; empty where there is none."""
        return Section(key, self._values.get(key), known)

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        return str(self._typed(key, str, "a text", default))

    def flag(self, key: str, default: bool) -> bool:
        """`true` or `false`."""
        return bool(self._typed(key, bool, "true or false", default))

    def number(self, key: str, default: int) -> int:
        """A whole number."""
        value = self._typed(key, int, "a whole number", default)
        if isinstance(value, bool):
            raise HvtraceError(f"{key} must be a whole number")
        return int(value)

    def seconds(self, key: str) -> float:
        """A time, as Go writes it: 500ms, 1m30s; 0 where there is none."""
        if self._values.get(key) == 0:
            return 0.0
        text = self.text(key, "0s")
        if not re.fullmatch(f"({_QUANTITY.pattern})+", text, re.ASCII):
            raise HvtraceError(f'{key} must be a time such as 500ms or 1s, not "{text}"')
        return sum(float(number) * _UNITS[unit] for number, unit in _QUANTITY.findall(text))

    def texts(self, key: str) -> list[str]:
        """A list of texts; empty where there is none."""
        values: list[object] = self._typed(key, list, "a list of texts", [])
        if not all(isinstance(value, str) for value in values):
            raise HvtraceError(f"{key} must be a list of texts")
        return [str(value) for value in values]

    def items(self) -> list[tuple[str, str]]:
        """All keys with their values, which are texts."""
        return [(key, self.text(key)) for key in self._values]

    def _typed(self, key: str, kind: type, name: str, default: Any) -> Any:  # noqa: ANN401
        value = self._values.get(key)
        if value is None:  # absent, or nothing behind the colon
            return default
        if not isinstance(value, kind):
            raise HvtraceError(f"{key} must be {name}")
        return value


def load(content: bytes, known: Collection[str]) -> Section:
    """The whole file, of which `known` are the keys. Raises HvtraceError: it is no such YAML."""
    try:
        return Section("", yaml.load(content, _Loader), known)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise HvtraceError(f"{line}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise HvtraceError(f"no YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuses a key that is there twice; YAML does, PyYAML would take the last."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f'"{key.value}" is there twice', key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
