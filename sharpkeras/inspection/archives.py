"""Zip files: npz, Keras' own model files, PyTorch's. Sizes are checked first, and nothing is ever extracted."""

import json
import re
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from sharpkeras.errors import ConfigError, SafetyError, printable
from sharpkeras.inspection.arrays import npy_header
from sharpkeras.inspection.report import LARGEST_MEMBERS, Report, array_facts, damaged, names, refuse_bomb

LARGEST_CONFIG = 64 * 2**20  # bytes
STRING = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
# Strings are matched whole, so that quotes and colons inside them are not seen.
FIELD = re.compile(rf"(?P<name>{STRING})(?:\s*:\s*(?P<value>{STRING}))?", re.DOTALL)
# Classes of Keras that run what the configuration says, or read a file that it names.
CODE = {"Lambda", "__lambda__", "function", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
READING = {"StringLookup", "IntegerLookup", "TextVectorization", "IndexLookup"}
MODULES = re.compile(
    r"keras(\.src)?(\.(models|layers|initializers|regularizers|constraints|activations|optimizers|losses|metrics"
    r"|dtype_policies|random)(\.\w+)*)?"
)
BROKEN = (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def inspect_zip(path: Path) -> Report:
    """The Report on an npz or a `.keras` file.

    Raises:
        ConfigError: another kind of zip file.
        RunError: a damaged one.
        SafetyError: it would fill the memory, holds Python objects, or a model with code.
    """
    with _open(path) as archive:
        kind = _kind(archive)
        if kind == "npz":
            return _inspect_npz(archive, path)
        if kind == "keras":
            return _inspect_keras(archive, path)
    words = {"torch": "a PyTorch file, a pickle in a zip file", None: "a zip file of no kind that is known"}[kind]
    raise ConfigError(f"is {words}, which sharpkeras does not open", where=str(path), allowed="npz or .keras")


def refuse_model(path: Path, next_step: str) -> None:
    """Raise SafetyError for a zip file that is a model of Keras or PyTorch, or that would fill the memory."""
    with _open(path) as archive:
        kind, code = _kind(archive), []
        if kind == "keras":
            code = _code(_config(archive, path))
    if kind in ("keras", "torch") or path.suffix == ".keras":
        words = "a PyTorch file, a pickle in a zip file" if kind == "torch" else "a whole Keras model"
        raise SafetyError(
            f"is {words}: loading it could run code",
            where=str(path),
            seen=names(code) if code else None,
            allowed="a run directory that train wrote",
            next_step=next_step,
        )


def _open(path: Path) -> zipfile.ZipFile:
    """The zip file at `path`, with sizes that are safe to read."""
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise damaged(path, error) from None
    members, size = archive.infolist(), path.stat().st_size
    try:
        if len(members) > LARGEST_MEMBERS:
            raise SafetyError("has too many members", where=str(path), seen=len(members), allowed=LARGEST_MEMBERS)
        for member in members:
            refuse_bomb(path, printable(member.filename, 100), member.file_size, member.compress_size)
        refuse_bomb(path, "what is in it", sum(member.file_size for member in members), size)  # members can overlap
    except SafetyError:
        archive.close()
        raise
    return archive


def _kind(archive: zipfile.ZipFile) -> str | None:
    """ "npz", "keras", "torch" or None."""
    members = set(archive.namelist())
    if any(name.rpartition("/")[2] == "data.pkl" for name in members):
        return "torch"
    if "config.json" in members:
        return "keras"
    return "npz" if members and all(name.endswith(".npy") for name in members) else None


def _inspect_npz(archive: zipfile.ZipFile, path: Path) -> Report:
    found = {}
    for member in archive.infolist():
        try:
            with archive.open(member) as file:
                found[member.filename.removesuffix(".npy")] = npy_header(
                    file, member.file_size, path, printable(member.filename, 100)
                )
        except BROKEN as error:
            raise damaged(path, error) from None
    return Report(str(path), "arrays (npz)", {**array_facts(found), "values": "not read"})


def _inspect_keras(archive: zipfile.ZipFile, path: Path) -> Report:
    """The Report on a `.keras` file without code; raises SafetyError for one with it."""
    config = _config(archive, path)
    code = _code(config)
    if code:
        raise SafetyError(
            "is a Keras model with code or foreign classes in it",
            where=str(path),
            seen=names(code),
            allowed="layers of Keras itself; sharpkeras loads no such file in any case",
            next_step="open it in a sandbox, and save its weights alone",
        )
    classes = Counter(value for name, value in config if name == "class_name")
    members = {member.filename: f"{member.file_size:,} bytes" for member in archive.infolist()}
    findings = ["sharpkeras never loads a model from a configuration: take its weights and a genotype"]
    strange = [name for name in members if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name)]
    findings += [f"would be extracted elsewhere: {names(strange)}"] if strange else []
    return Report(str(path), "a whole Keras model (.keras)", {"classes": dict(classes), "members": members}, findings)


def _config(archive: zipfile.ZipFile, path: Path) -> list[tuple[str, str]]:
    """The pairs of a name and a text in config.json, which is not parsed: it may be nested at will."""
    try:
        with archive.open("config.json") as file:
            raw = file.read(LARGEST_CONFIG + 1)
        text = raw.decode(json.detect_encoding(raw))  # as Python's reader, and so Keras, would
        if len(raw) > LARGEST_CONFIG:
            raise ConfigError("is too large", where=f"{path}: config.json", allowed=f"at most {LARGEST_CONFIG:,} bytes")
        pairs = [(found["name"], found["value"]) for found in FIELD.finditer(text) if found["value"]]
        return [(json.loads(name, strict=False), json.loads(value, strict=False)) for name, value in pairs]
    except BROKEN as error:
        raise damaged(f"{path}: config.json", error) from None


def _code(config: list[tuple[str, str]]) -> list[str]:
    """What in a configuration is not a plain layer of Keras, in words."""
    found = [value for name, value in config if name == "class_name" and value in CODE | READING]
    found += [f"the module {value}" for name, value in config if name == "module" and not MODULES.fullmatch(value)]
    found += [f"the class {value}" for name, value in config if name == "registered_name" and not _is_own(value)]
    return [printable(text, 100) for text in dict.fromkeys(found)]


def _is_own(registered_name: str) -> bool:
    return registered_name == "Functional" or registered_name.startswith("keras>")
