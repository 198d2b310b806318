"""Says of long work, every so often, that it goes on: what compiles for minutes must not look as if it hung."""

import threading
import time
from collections.abc import Callable

FIRST_S = (10, 30, 60)  # after which a stage is told of again; from then on each minute
EVERY_S = 1.0  # between two looks at the clock


class Heartbeat:
    """Tells of the stage that goes on: what it is, and for how long already.

    Args:
        beat: (stage, seconds) → None, called after 10 s, 30 s and each minute.
        tick: (stage, seconds) → None, called each second, such as for a bar; None for nothing.
        clock: () → seconds.
    """

    def __init__(
        self,
        beat: Callable[[str, float], None],
        tick: Callable[[str, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._beat, self._tick, self._clock = beat, tick, clock
        self._stage: str | None = None
        self._began, self._due = 0.0, 0.0
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, stage: str) -> None:
        """From now on this stage goes on, instead of the one before."""
        with self._lock:
            self._stage, self._began, self._due = stage, self._clock(), FIRST_S[0]
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, args=(self._ended,), daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Nothing goes on any more; what was to be said is not said after this."""
        with self._lock:
            self._stage = None
        self._ended.set()
        self._thread, self._ended = None, threading.Event()

    def look(self) -> None:
        """Tells what is due by the clock."""
        with self._lock:
            if self._stage is None:
                return
            seconds = self._clock() - self._began
            if self._tick:
                self._tick(self._stage, seconds)
            if seconds >= self._due:
                self._beat(self._stage, seconds)
                self._due = next((due for due in FIRST_S if due > seconds), 60 * (seconds // 60 + 1))

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY_S):
            self.look()


def clock(seconds: float) -> str:
    """1:02:03 of 3723 seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
