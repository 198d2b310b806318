"""Settings as frozen values that are checked when they are made.

A field carries its help and its range; the command line makes its options from them, so that each fact stands once.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any, Self

from sharpkeras.errors import ConfigError, printable

SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


def setting(default: Any, help: str, low: float | None = None, high: float | None = None, choices: Any = None) -> Any:
    """A field of settings: its default, its help, and the values it may have (`low` and `high` included).

    Choices that are a table are read when they are used: a row that is added to it later is one of them.
    """
    return dataclasses.field(default=default, metadata=dict(help=help, low=low, high=high, choices=choices))


@dataclasses.dataclass(frozen=True)
class Settings:
    """A frozen dataclass of `setting`s: range checks, and the way from and to JSON."""

    def __post_init__(self) -> None:
        for field in self.fields():
            _check(field, getattr(self, field.name))

    @classmethod
    def fields(cls) -> list[dataclasses.Field]:
        """The fields that are settings: what else a recipe knows of itself is neither an option nor in its JSON."""
        return [field for field in dataclasses.fields(cls) if "help" in field.metadata]

    def as_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in self.fields()}

    def changes(self, other: "Settings") -> dict[str, Any]:
        """What `other` has otherwise, name → its value there."""
        return {name: value for name, value in other.as_dict().items() if value != getattr(self, name)}

    @classmethod
    def from_dict(cls, settings: Any, where: str = "recipe", base: Self | None = None) -> Self:
        """Settings from JSON values; what is missing comes from `base` (default: the defaults).

        Raises:
            ConfigError: for an unknown key, with the nearest valid one, or a value of the wrong type or range.
        """
        if not isinstance(settings, dict):
            raise ConfigError("expected an object of settings", where=where, seen=type(settings).__name__)
        fields = {field.name: field for field in cls.fields()}
        for key, value in settings.items():
            if key not in fields:
                words = key.replace("_", " ")
                meant = [name for name, field in fields.items() if words in field.metadata["help"]]  # weight_decay: l2
                near = difflib.get_close_matches(key, fields, n=1) or meant
                hint = f"did you mean {near[0]}?" if near else f"valid keys: {', '.join(fields)}"
                raise ConfigError(f"unknown key {printable(repr(key), 80)}", where=where, next_step=hint)
            _check(fields[key], value, where)
        return dataclasses.replace(base or cls(), **settings)

    @classmethod
    def parse(cls, assignments: Iterable[str], where: str = "--set") -> dict[str, Any]:
        """Values by name from texts such as "epochs=60"; `none` is no value.

        Raises:
            ConfigError: for a text of another form; names and ranges are checked by `from_dict`.
        """
        values = {}
        for assignment in assignments:
            name, equals, text = (part.strip() for part in assignment.partition("="))
            if not equals:
                raise ConfigError("expected a setting", where=where, seen=assignment, allowed="name=value")
            values[name] = text
        return cls.read_values(values)

    @classmethod
    def read_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The same values by name, as their settings have them: 600000000 of "600M", None of "none", 1.0 of 1.

        What cannot be read so stays as it is, and so does the value of an unknown name: `from_dict` refuses them.
        """
        kinds = {field.name: _kind(field) for field in cls.fields()}

        def read(name: str, value: Any) -> Any:
            if isinstance(value, str):
                return _value(value, kinds.get(name, str))
            if type(value) is int and kinds.get(name) is float and _is_finite(value):
                return float(value)
            return value

        return {name: read(name, value) for name, value in values.items()}


def _check(field: dataclasses.Field, value: Any, where: str | None = None) -> None:
    """Raises ConfigError unless `value` has the field's type and lies in its range."""
    rule, kind, optional = field.metadata, _kind(field), "None" in str(field.type)
    path = f"{where}: {field.name}" if where else field.name
    if value is None and optional:
        return
    number = kind in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number and (kind is float or isinstance(value, int)) or kind in (bool, str) and isinstance(value, kind)
    if not fits or number and not _is_finite(value):
        raise ConfigError("wrong type", where=path, seen=value, allowed=f"a finite {kind.__name__}")
    low, high, choices = rule["low"], rule["high"], rule["choices"]
    if low is not None and value < low or high is not None and value > high:
        limits = [f"{word} {limit}" for word, limit in (("at least", low), ("at most", high)) if limit is not None]
        raise ConfigError("out of range", where=path, seen=value, allowed=", ".join(limits))
    if choices and value not in choices:
        raise ConfigError("unknown value", where=path, seen=value, allowed=", ".join(choices))


def _is_finite(number: float) -> bool:
    """Whether it is finite as a float too, which an integer of 400 digits is not."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def count(text: str) -> int:
    """A whole number with K, M or B (or G) behind it; raises ValueError for anything else.

    >>> count("600M"), count("1.5k")
    (600000000, 1500)
    """
    number = float(text[:-1]) * SUFFIXES.get(text[-1:].upper(), math.nan)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _kind(field: dataclasses.Field) -> type[bool | int | float | str]:
    """bool, int, float or str."""
    return next(kind for kind in (bool, int, float, str) if kind.__name__ in str(field.type))


def _value(text: str, kind: type[bool | int | float | str]) -> Any:
    """The text as a value of that kind, or as it is where it cannot be read so: the check then says what is wrong."""
    if text.lower() == "none" and kind is not str:
        return None
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind is str:
        return text
    for read in (int, float, count):
        try:
            return read(text)
        except ValueError:
            continue
    return text
