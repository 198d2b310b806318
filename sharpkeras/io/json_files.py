"""Strict JSON for files that strangers write: one meaning per text, and a clear message for everything else.

Python's own reader lets a repeated key win silently, accepts NaN, and runs out of stack on deep nesting.
"""

import json
import logging
import math
import os
import re
from typing import Any, NoReturn

from sharpkeras.errors import ConfigError, UsageError, printable
from sharpkeras.io import regular_files

logger = logging.getLogger(__name__)

MAX_BYTES = 2**20
MAX_BYTES_OF_LINES = 64 * 2**20  # of a file with a value a line
MAX_DEPTH = 16
MAX_DIGITS = 100  # of one number; Python converts integers in quadratic time

# Strings are matched whole, so that brackets and quotes inside them are not seen. One without its end goes to the end
# of the text: looking for it again from each quote inside would take hours.
TOKENS = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*+(?:"|\\?\Z))(?P<colon>\s*:)?|(?P<open>[\[{])|(?P<close>[\]}])', re.DOTALL
)


def load(path: str | os.PathLike[str]) -> Any:
    """The value in the JSON file at `path`.

    Raises:
        UsageError: there is no readable file.
        ConfigError: as `loads`, and for text that is not UTF-8.
    """
    try:
        with regular_files.opened(path) as file:
            raw = file.read(MAX_BYTES + 1)
    except regular_files.RefusedError as error:
        raise UsageError(error.strerror, where=str(path), allowed="a JSON file") from None
    except (OSError, ValueError) as error:  # ValueError: a path with NUL or half a character, out of another file
        seen = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot be read: {seen}", where=printable(str(path)), allowed="a JSON file") from None
    return decoded(raw, str(path))


def decoded(raw: bytes, where: str) -> Any:
    """The value that the bytes of a JSON file stand for; raises ConfigError as `load`."""
    _refuse_size(raw, where)
    try:
        return loads(raw.decode("utf-8"), where)
    except UnicodeDecodeError as error:
        seen = f"byte {raw[error.start]:#04x} at offset {error.start}"
        raise ConfigError("is not UTF-8 text", where=where, seen=seen, allowed="JSON text") from None


def loads(text: str, where: str) -> Any:
    """The value that the JSON `text` stands for.

    Args:
        text: at most 1 MiB and 16 levels deep; a byte order mark at the start is ignored.
        where: what the messages call it, usually the file.

    Raises:
        ConfigError: no JSON, a repeated key, a number that is not finite or too long, too large or too deep.
    """
    if text.startswith("\ufeff"):
        logger.warning("%s begins with a byte order mark, which is ignored", where)
        text = text[1:]
    _refuse_size(text.encode("utf-8", "surrogatepass"), where)
    if "\0" in text:
        place = _place(text, text.index("\0"))
        raise ConfigError("has a NUL byte", where=f"{where}, {place}", allowed="JSON text")
    _refuse_depth(text, where)
    try:
        value = json.loads(
            text,
            parse_constant=lambda name: _refuse_number(name, where),
            parse_float=lambda digits: _finite(digits, where),
            parse_int=lambda digits: _integer(digits, where),
        )
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"is not JSON: {error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')}",
            where=f"{where}, {_place(text, error.pos)}",
            seen=text[error.pos : error.pos + 40] or "the end of the text",
            allowed='JSON such as {"name": [1, 2]}; never Python source or a pickle',
        ) from None
    _refuse_repeated_keys(text, where)
    return value


def decoded_lines(raw: bytes, where: str) -> list[Any]:
    """The values of a JSON Lines file; a last line without its end, which a kill cut off, is left out.

    Raises:
        ConfigError: as `loads`, for a line, and for what is not UTF-8.
    """
    try:
        lines = raw.decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8 text", where=where, allowed="lines of JSON") from None
    return [loads(line, f"{where}, line {number}") for number, line in enumerate(lines, 1)]


def require(value: Any, form: Any, where: str) -> Any:
    """Check that a JSON value has a form and return it; raise ConfigError with its JSON path otherwise.

    Args:
        value: the value.
        form: a type; a tuple of types; a list with the form of each item; or an object with the form of each name,
            which may have others too. A float may be written as an integer, and true is no number.
        where: what the messages call it.
    """
    if isinstance(form, dict):
        for name, inner in form.items():
            if not isinstance(value, dict) or name not in value:
                allowed = f"an object with {', '.join(form)}"
                raise ConfigError(f"has no {name}", where=where, seen=value, allowed=allowed)
            require(value[name], inner, f"{where}: {name}")
    elif isinstance(form, list):
        for index, item in enumerate(require(value, list, where)):
            require(item, form[0], f"{where}[{index}]")
    else:
        kinds = form if isinstance(form, tuple) else (form,)
        fits = type(value) in kinds or type(value) is int and float in kinds
        if not fits:
            raise ConfigError("wrong type", where=where, seen=value, allowed=" or ".join(map(_in_words, kinds)))
    return value


def _in_words(kind: type) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(kind, kind.__name__)


def _place(text: str, offset: int) -> str:
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    return f"line {line}, column {column}"


def _refuse_size(raw: bytes, where: str) -> None:
    if len(raw) > MAX_BYTES:
        raise ConfigError("is too large", where=where, seen=f"more than {MAX_BYTES} bytes", allowed="at most 1 MiB")


def _refuse_depth(text: str, where: str) -> None:
    depth = 0
    for token in TOKENS.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        if depth > MAX_DEPTH:
            raise ConfigError(
                "is nested too deeply",
                where=f"{where}, {_place(text, token.start())}",
                seen=f"more than {MAX_DEPTH} levels",
                allowed=f"at most {MAX_DEPTH} levels",
            )


def _refuse_repeated_keys(text: str, where: str) -> None:
    """Names both places of a key that an object has twice; `text` is known to be JSON."""
    objects: list[dict[str, int]] = []
    for token in TOKENS.finditer(text):
        if token["open"]:
            objects.append({})
        elif token["close"]:
            objects.pop()
        elif token["colon"]:
            key = json.loads(token["string"])  # "a" and "\u0061" are the same key
            if key in objects[-1]:
                first, second = _place(text, objects[-1][key]), _place(text, token.start())
                problem = f"has a key twice, first at {first}"
                raise ConfigError(problem, where=f"{where}, {second}", seen=key, allowed="each key once")
            objects[-1][key] = token.start()


def _refuse_number(digits: str, where: str) -> NoReturn:
    raise ConfigError("has a number that is not finite", where=where, seen=digits, allowed="finite numbers")


def _refuse_length(digits: str, where: str) -> None:
    if len(digits) > MAX_DIGITS:
        raise ConfigError(
            "has a number that is too long",
            where=where,
            seen=f"{digits[:10]}… with {len(digits)} characters",
            allowed=f"at most {MAX_DIGITS} characters",
        )


def _integer(digits: str, where: str) -> int:
    _refuse_length(digits, where)
    return int(digits)


def _finite(digits: str, where: str) -> float:
    _refuse_length(digits, where)
    return float(digits) if math.isfinite(float(digits)) else _refuse_number(digits, where)
