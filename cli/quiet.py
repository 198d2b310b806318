"""Keeps what TensorFlow's native code logs off the terminal: no setting of its own does, before it is initialised."""

import contextlib
import os
import re
import sys
import threading

from sharpkeras_cli import streams

NOISE = re.compile(
    rb"[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] "
    rb"|WARNING: All log messages before absl|To enable the following instructions"
)


def silence_native_logs():
    """From here on lines of stderr that look like TensorFlow's own log are dropped; Python's stderr stays as it is."""
    terminal = os.dup(2)
    sys.stderr = streams.stderr_on(os.dup(terminal))
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    threading.Thread(target=_forward, args=(reader, terminal), daemon=True).start()


def _forward(reader, terminal):
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            if not NOISE.match(line):
                with contextlib.suppress(OSError):  # whoever logs must find a reader, though nobody reads it
                    os.write(terminal, line)
