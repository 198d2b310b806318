"""Signal handling: after SIGTERM or Ctrl-C a run finishes its step and writes a checkpoint before it ends.

The first one is noted, and `check`, called where a run can stop, raises StoppedError; a second one ends the process at
once.
Signals are the process's, and so is what this module remembers.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from sharpkeras.errors import SharpKerasError

HELD = (signal.SIGINT, signal.SIGTERM)
ASKED = b"\nFinishing the step and writing a checkpoint ... once more ends it at once.\n"

logger = logging.getLogger("sharpkeras")
_asked = None
_agreed: Callable[[int | None], int | None] | None = None  # of several processes


class StoppedError(SharpKerasError):
    """A signal stopped the run, after its checkpoint; the exit code is 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}", next_step="the same command goes on from here")
        self.exit_code = 128 + number


def check() -> None:
    """Raise StoppedError if the run was asked to stop; for places where it can be resumed."""
    number = _agreed(_asked) if _agreed else _asked
    if number is not None:
        raise StoppedError(number)


def agree_by(function: Callable[[int | None], int | None]) -> None:
    """Have the processes of a job stop at the same step: `function` makes of this one's signal that of all, or None."""
    global _agreed
    _agreed = function


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Context in which the first SIGTERM or Ctrl-C is noted for `check`.

    A thread reads the signals' numbers from a pipe into which Python's own handler, in C, writes them: Python code runs
    only between two operations of the main thread, of which a compilation is one, and the second signal is to end that.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        logger.warning("not in the main thread: a signal ends the run at once, back to its last checkpoint")
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, lambda *_: None) for number in HELD}
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reader,), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        listener.join()
        os.close(reader)
        _asked = None


@contextlib.contextmanager
def ends_in_order() -> Iterator[None]:
    """Context in which a SIGTERM outside of `held` exits with 143 after all locks are released."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def _listen(reader: Any) -> None:
    """Note the first signal and end the process at the second, until the pipe is closed."""
    global _asked
    while numbers := os.read(reader, 1):
        if numbers[0] not in HELD:
            continue
        if _asked is not None:
            os._exit(128 + numbers[0])
        _asked = numbers[0]
        with contextlib.suppress(OSError):  # a terminal that is gone; the second signal is still to be heard
            os.write(2, ASKED)
