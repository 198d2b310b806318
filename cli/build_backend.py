"""Builds the package as setuptools does, but so that no folder can hide an editable install.

Python asks the finder of setuptools, which knows that `sharpkeras_cli` lies in `cli/`, after all of `sys.path`. Before
that it finds a folder called `sharpkeras` in the working directory, such as that of a clone, as a package without code.
Where `sys.path` leads to the package itself, at whatever place, that comes first.
"""

import base64
import os
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  the other hooks of a build
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

PATH_ENTRY = "sharpkeras_folder.pth"


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """The hook of `pip install --editable`: a wheel that also puts this folder at the end of `sys.path`."""
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    add_file(Path(wheel_directory, name), PATH_ENTRY, os.fsencode(Path.cwd()) + b"\n")
    return name


def add_file(wheel: Path, name: str, content: bytes) -> None:
    """Adds a file to a wheel and to the list of its files."""
    with zipfile.ZipFile(wheel) as archive:
        files = {member.filename: archive.read(member) for member in archive.infolist()}
    record = next(member for member in files if member.endswith(".dist-info/RECORD"))
    digest = base64.urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
    files[record] = f"{name},sha256={digest},{len(content)}\n".encode() + files[record]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {name: content, **files}.items():  # the list stays the last
            archive.writestr(member, data)
