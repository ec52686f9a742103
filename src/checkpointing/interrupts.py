"""When a run saves and when it ends: the checkpoint's minutes, its time budget, SIGTERM and Ctrl-C.

The idea to know: while a fold trains a signal only leaves a mark, which is read after the step, so that what was
learned is saved; everything else a signal ends at once, as nothing is lost there. A second signal ends that, too.
The time budget is looked at after each step, with what comes next in mind, and is an alarm before the first one.
"""

import os
import signal
import threading
import time
from contextlib import contextmanager

import torch

from src.errors import Stopped

_FIRST_SAVE_SECONDS = 2.0  # what saving is thought to take before it was timed
_BUDGET = "the end of time_budget"
_ECHO_SECONDS = 0.5  # after a signal, in which it counts once: `timeout` sends it to the process and to its group
_AGREE_EVERY = 10  # steps after which several processes ask each other, since each time they wait for each other


class Watch:
    """Says after each step whether to save and whether to end; each process has one.

    Args:
        checkpoint_minutes: from one state that was saved in an epoch's midst to the next.
        budget_seconds: from now to the end; None: any time.
        is_overwriting: the command deletes what is there, so that it does not go on as it is.
    """

    def __init__(self, checkpoint_minutes, budget_seconds, is_overwriting=False, clock=time.monotonic):
        self.again = "the same command without overwrite=true" if is_overwriting else "the same command"
        self._clock, self._every = clock, 60 * checkpoint_minutes
        self._ends_at = None if budget_seconds is None else clock() + budget_seconds
        self._saved_at, self._looked_at = clock(), None
        self._slowest_step, self._slowest_save = 0.0, _FIRST_SAVE_SECONDS
        self._num_looks, self._signal, self._heard_at, self._is_training = 0, None, 0.0, False

    @contextmanager
    def listening(self):
        """Hear SIGTERM and Ctrl-C inside the block, where Python lets it: in the main thread."""
        numbers = (signal.SIGTERM, signal.SIGINT) if _can_listen() else ()
        before = {number: signal.signal(number, self._hear) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def preparing(self, num_processes=1):
        """Inside the block the time budget ends the run at once, where the system has an alarm: Windows has none.

        Several processes wait for each other there, and would go on waiting for one that has gone.
        """
        if self._ends_at is None or num_processes > 1 or not (hasattr(signal, "setitimer") and _can_listen()):
            yield
            return
        before = signal.signal(signal.SIGALRM, self._hear_alarm)
        signal.setitimer(signal.ITIMER_REAL, max(self._ends_at - self._clock(), 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @contextmanager
    def training(self):
        """Inside the block a first signal is left for `look`."""
        self._is_training = True
        try:
            yield
        finally:
            self._is_training = False

    def look(self, accelerator, is_last=False, ahead=0.0):
        """Return (whether it is time to save, what ends the run or None), the same on every process.

        Call it after each step; another step as slow as the slowest, and saving, must still fit into the time budget.

        Args:
            is_last: of its epoch; several processes agree then at any rate.
            ahead: seconds of what comes besides.
        """
        now = self._clock()
        if self._looked_at is not None:  # what lies between two epochs is no step
            self._slowest_step = max(self._slowest_step, now - self._looked_at)
        self._looked_at = None if is_last else now
        self._num_looks += 1
        ending, is_due = self.ending(self._slowest_step + ahead), now - self._saved_at >= self._every
        if accelerator.num_processes > 1:
            if self._num_looks % _AGREE_EVERY and not is_last:
                return False, None
            is_due = is_due and accelerator.is_main_process  # which knows when a state was saved
            flags = torch.tensor([float(is_due), float(ending is not None)], device=accelerator.device)
            is_due, is_ending = (accelerator.reduce(flags, "sum") > 0).tolist()
            ending = (ending or ("another process", 143)) if is_ending else None
        return is_due, ending

    def ending(self, ahead=0.0):
        """Return (what ends the run, exit status) of this process, or None.

        Args:
            ahead: seconds that what comes next will take.
        """
        if self._signal is not None:
            return self._signal
        if self._ends_at is not None and self._clock() + ahead + 2 * self._slowest_save >= self._ends_at:
            return _BUDGET, 0
        return None

    def saved(self, seconds):
        """Note that a state was saved now, which took so long."""
        self._saved_at, self._slowest_save = self._clock(), max(self._slowest_save, seconds)

    def _hear(self, number, _):
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        if self._signal is not None and self._clock() - self._heard_at < _ECHO_SECONDS:
            return
        if not self._is_training or self._signal is not None:
            raise self._stopped(f"\nstopped by {name}", 128 + number)
        self._signal, self._heard_at = (name, 128 + number), self._clock()
        os.write(2, f"\n{name}: saving after this step; once more ends at once\n".encode())  # print may be at work

    def _hear_alarm(self, *_):
        raise self._stopped(f"stopped by {_BUDGET}", 0)

    def _stopped(self, why, status):
        return Stopped(f"{why}; {self.again} goes on from what is saved", status)


def _can_listen():
    return threading.current_thread() is threading.main_thread()
