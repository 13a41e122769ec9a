"""The signal SIGTERM, by which schedulers end a job: noted, and obeyed between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Termination:
    """Notes SIGTERM while the context is active.

    Python sends signals to the main thread only, so nothing is noted in another one.

    Args:
        watch: whether to note it at all.
    """

    def __init__(self, watch: bool):
        self.received = False
        self._watch = watch and threading.current_thread() is threading.main_thread()
        self._previous: Any = None

    def __enter__(self) -> "Termination":
        if self._watch:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watch:
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

    def obey(self) -> None:
        """Call the handler that was there before; without one, end the process.

        Raises:
            SystemExit: with status 143, as shells report SIGTERM.
        """
        if callable(self._previous):
            self._previous(signal.SIGTERM, None)
        elif self._previous != signal.SIG_IGN:
            raise SystemExit(128 + signal.SIGTERM)
