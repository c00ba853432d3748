"""A polite end: a signal asks the loop to save at the next step, a second Ctrl-C ends it."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType


class StopRequest:
    """While entered, notes SIGTERM, SIGUSR1 and Ctrl-C instead of dying of them.

    ``received`` is the signal's number, or ``None``. Schedulers and launchers repeat their signals,
    so repeated ones change nothing; only a second Ctrl-C has its usual effect. One that is entered
    within another hears what that has heard, and tells it: so do a study and its run.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT) + (
        (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()
    )

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        if outer := self._outer:
            self.received = outer.received
        return self

    @property
    def _outer(self) -> StopRequest | None:
        """The one that this is entered within."""
        owner = getattr(self._before[signal.SIGTERM], "__self__", None)
        return owner if isinstance(owner, StopRequest) else None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if outer := self._outer:
            outer._note(number, frame)
            return
        os.write(2, b"\nStopping after this step, and saving. Ctrl-C ends it at once.\n")
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])  # type: ignore[arg-type]

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
