"""Keeps what TensorFlow's and JAX' native code logs off the terminal: no setting of theirs does, before it begins."""

import contextlib
import os
import re
import sys
import threading

from sharpkeras_cli import streams

# A line of a log: absl's, TensorFlow's older one, and what both begin with.
NOISE = re.compile(
    rb"[IWEF]\d{4} |\d{4}-\d\d-\d\d .*: [IWEF] "
    rb"|WARNING: All log messages before absl|To enable the following instructions"
)

# XLA's alarm over a slow operation is one entry of many lines. What it is about, the command says in its own words.
ALARM = re.compile(rb".*slow_operation_alarm\.cc|\*{8,}|\[Compiling module |Very slow compile\?|The operation took ")
ALARM_GOES_ON = re.compile(
    rb"\s*$|\s+%|\*{8,}|\[Compiling module |Very slow compile\?|The operation took |Constant folding an instruction"
    rb"|This isn't necessarily a bug|XLA has some guards|If you'd like to file a bug"
)


class Filter:
    """Tells which lines of a native log are to be seen, one after the other."""

    def __init__(self) -> None:
        self._in_alarm = False

    def shows(self, line: bytes) -> bool:
        self._in_alarm = bool(ALARM.match(line)) or self._in_alarm and bool(ALARM_GOES_ON.match(line))
        return not self._in_alarm and not NOISE.match(line)


def silence_native_logs() -> None:
    """From here on lines of stderr that look like a native log are dropped; Python's own stderr stays as it is."""
    terminal = os.dup(2)
    sys.stderr = streams.stderr_on(os.dup(terminal))
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    threading.Thread(target=_forward, args=(reader, terminal), daemon=True).start()


def _forward(reader: int, terminal: int) -> None:
    kept = Filter()
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            if kept.shows(line):
                with contextlib.suppress(OSError):  # whoever logs must find a reader, though nobody reads it
                    os.write(terminal, line)
