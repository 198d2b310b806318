"""The one way to print: what every command says goes through a Stream, whatever the terminal, pipe or file can take.

A character that the stream's encoding lacks is written in an ASCII form, or escaped. Whoever closes the pipe has read
enough: the rest is dropped, and the command ends as it would have. A full disk under stdout is an error; under stderr
nothing is, for a message that nobody can read must not change a result.
"""

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from sharpkeras.errors import ResourceError

FORMS = str.maketrans(
    {
        **{"±": "+-", "–": "-", "−": "-", "—": "-", "…": "...", "×": "x", "·": "*", "→": "->", "≥": ">=", "≤": "<="},
        **{"§": "section ", "₂": "2", "²": "2", "µ": "u", "“": '"', "”": '"', "’": "'", "\u00a0": " "},
        **dict.fromkeys("─━═╌╍╴╶╸╺", "-"),
        **dict.fromkeys("│┃║┆┇", "|"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┡┩┢┪┠┨┯┷┿╇╈╋┳┻┣┫╞╡╪╭╮╰╯", "+"),
    }
)
FALLBACK = "sharpkeras.form"


def _form(error: Any) -> tuple[str, int]:
    lacking = error.object[error.start : error.end]
    form = lacking.translate(FORMS).encode("ascii", "backslashreplace").decode()
    return form, error.end


codecs.register_error(FALLBACK, _form)


class Stream:
    """What takes the place of sys.stdout or sys.stderr; text alone, each piece is written at once.

    Args:
        stream: a text stream; None where the shell has closed it.
        needed: whether it is an error that the stream cannot take the text.
    """

    def __init__(self, stream: TextIO | None, needed: bool) -> None:
        self._stream: Any = stream
        self._needed = needed

    def __getattr__(self, name: str) -> Any:
        if self._stream is None or name == "buffer":  # click puts a writer of its own around a stream that has one
            raise AttributeError(name)
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"expected text, received {type(text).__name__}")
        if text and self._stream is not None:  # click writes an empty one, and hears no error of it
            with self._told():
                self._stream.write(fitting(text, self.encoding))
                self._stream.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._stream is not None:
            with self._told():
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """An error of the stream is told once; what it holds back, and what is still to be written, is dropped."""
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):  # what it holds back is flushed at the exit, into nothing
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream = None
            if self._needed and not isinstance(error, ConnectionError):
                problem, step = "stdout cannot be written", "free some space, or send the output to another place"
                raise ResourceError(problem, seen=error.strerror, next_step=step) from None


def fitting(text: str, encoding: str | None = None) -> str:
    """`text` as a stream of this encoding can show it; None is that of stdout."""
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, FALLBACK).decode(encoding)


def stderr_on(descriptor: int) -> Stream:
    """A stream for messages on the open file `descriptor`, in the encoding of sys.stderr."""
    return Stream(os.fdopen(descriptor, "w", buffering=1, encoding=sys.stderr.encoding, errors=FALLBACK), needed=False)


@contextlib.contextmanager
def printable() -> Iterator[None]:
    """While it lasts, sys.stdout and sys.stderr are Streams."""
    _open_all_three()
    if columns() is None:
        os.environ.pop("COLUMNS", None)  # rich takes ² for a number
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Stream(sys.stdout, needed=True), Stream(sys.stderr, needed=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def columns() -> int | None:
    """The columns of the terminal that COLUMNS says; None where it says no plain number."""
    said = os.environ.get("COLUMNS", "")
    return int(said) if re.fullmatch("0*[1-9][0-9]{0,5}", said) else None


def _open_all_three() -> None:
    """Opens those of the descriptors 0 to 2 that the shell closed: else the next file that is opened gets the number,
    and what native code writes to stderr goes into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
