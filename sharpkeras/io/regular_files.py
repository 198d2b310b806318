"""The one way to open a file that a stranger may have made: it is a regular file, or no byte of it is read.

A pipe lets its reader wait forever, a device never ends, a link leads to any other file, and a sparse file of many
gigabytes costs its maker nothing. A path that somebody names may be a link; what lies in a run directory may not.
"""

import errno
import io
import os
import stat

KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class RefusedError(OSError):
    """Refusal to read a file. It is an OSError, which callers that open files handle anyway."""

    strerror: str

    def __init__(self, path: str | os.PathLike[str], problem: str, number: int = errno.EINVAL) -> None:
        super().__init__(number, problem, str(path))

    def __str__(self) -> str:
        return f"{os.path.basename(self.filename)} {self.strerror}"


def opened(path: str | os.PathLike[str], within: str | os.PathLike[str] | None = None) -> io.BufferedReader:
    """The regular file at `path`, open for reading bytes.

    Args:
        path: the file. A link is followed, unless `within` is given.
        within: a directory; `path` is then relative to it, and nothing between the two, nor the file, is a link.

    Raises:
        RefusedError: there is something else than a regular file, or a link where there may be none.
        OSError: there is nothing, or the system denies it.
    """
    if within is None:
        _refuse_other(os.stat(path), path)
        return _checked(os.open(path, FILE), path)
    place, (*folders, name) = os.path.join(within, path), os.fspath(path).split(os.sep)
    folder = os.open(within, FOLDER)
    try:
        for inner in folders:
            if stat.S_ISLNK(os.stat(inner, dir_fd=folder, follow_symlinks=False).st_mode):
                raise RefusedError(place, f"lies behind {inner}, which is a link")
            outer, folder = folder, os.open(inner, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(outer)
        _refuse_other(os.stat(name, dir_fd=folder, follow_symlinks=False), place)
        return _checked(os.open(name, FILE | os.O_NOFOLLOW, dir_fd=folder), place)
    finally:
        os.close(folder)


def read(path: str | os.PathLike[str], largest: int, within: str | os.PathLike[str] | None = None) -> bytes:
    """The bytes of a file that is opened by `opened`; raises RefusedError for one of more than `largest` bytes."""
    with opened(path, within) as file:
        content = file.read(largest + 1) if os.fstat(file.fileno()).st_size <= largest else None
    if content is None or len(content) > largest:  # the size that the system tells of some files is 0
        place = path if within is None else os.path.join(within, path)
        raise RefusedError(place, f"is larger than {largest:,} bytes", errno.EFBIG)
    return content


def refuse_other(path: str | os.PathLike[str]) -> None:
    """Raise RefusedError where something else than a regular file stands at `path`, a link too."""
    if os.path.lexists(path):
        _refuse_other(os.lstat(path), path)


def _refuse_other(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    """The file is not opened for this: opening alone makes some devices do something."""
    for is_one, words in KINDS:
        if is_one(status.st_mode):
            raise RefusedError(path, f"is {words} and not a regular file")


def _checked(number: int, path: str | os.PathLike[str]) -> io.BufferedReader:
    """The open file of that number, which may be another than was looked at just before."""
    try:
        _refuse_other(os.fstat(number), path)
    except RefusedError:
        os.close(number)
        raise
    return open(number, "rb")
