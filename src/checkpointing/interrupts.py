"""When a run saves and when it ends: checkpoint_minutes, time_budget, SIGTERM and Ctrl-C.

While a fold trains, a signal sets a flag that is checked after the step, so that its work is saved; at other times it
ends the run at once, as nothing is lost then. A second signal always ends it.
"""

import math
import os
import signal
import threading
import time
from contextlib import contextmanager

from src.errors import Stopped

_BUDGET = "the end of time_budget"
_ECHO_SECONDS = 0.5  # in which repeated signals count once: `timeout` sends one to the process and one to its group
_AGREE_EVERY, _AGREE_SECONDS = 10, 5.0  # most steps, and most seconds of steps, between two agreements of several
# processes, each of which makes them wait; torchrun kills them 30 seconds after a signal


class Interrupts:
    """Says after each step whether to save and whether to stop; the budget runs from now, None is no limit."""

    def __init__(self, checkpoint_minutes, budget_seconds, is_overwriting=False, clock=time.monotonic):
        self.again = "the same command without overwrite=true" if is_overwriting else "the same command"
        self._clock, self._every = clock, 60 * checkpoint_minutes
        self._ends_at = clock() + (math.inf if budget_seconds is None else budget_seconds)
        self._saved_at, self._checked_at = clock(), None
        self._slowest_step, self._slowest_save = 0.0, 2.0  # seconds; saving is assumed until it was timed
        self._steps_left, self._signal, self._signal_at, self._is_deferred = _AGREE_EVERY, None, -math.inf, False

    @contextmanager
    def handle_signals(self):
        """Handle SIGTERM and Ctrl-C inside the block, where Python allows it: in the main thread."""
        numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def alarm(self, num_processes=1):
        """Inside the block the time budget ends the run at once, where the system has an alarm (not on Windows)."""
        can_alarm = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        if self._ends_at == math.inf or not can_alarm or num_processes > 1:  # others would wait for one that has ended
            yield
            return
        before = signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, max(self._ends_at - self._clock(), 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @contextmanager
    def deferred(self):
        """Inside the block the first signal only sets the flag that `check` returns."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def check(self, accelerator, is_last=False, ahead=0.0):
        """Return (whether to save after this step, (why to stop, exit status) or None), the same on every process.

        The time budget must hold another step as slow as the slowest, `ahead` seconds of what else comes, and saving.
        """
        now, step = self._clock(), self._slowest_step
        if self._checked_at is not None:  # the time between two epochs is no step
            step = now - self._checked_at
            self._slowest_step = max(self._slowest_step, step)
        self._checked_at = None if is_last else now
        reason, is_due = self.stop_reason(self._slowest_step + ahead), now - self._saved_at >= self._every
        if accelerator.num_processes > 1:
            self._steps_left -= 1
            if self._steps_left > 0 and not is_last:  # after an epoch's last step they always agree
                return False, None
            is_due = is_due and accelerator.is_main_process  # the one that knows when a state was saved
            import torch  # here, as tools that only wait for programs import this module

            flags = torch.tensor([float(is_due), float(reason is not None), step], device=accelerator.device)
            is_due, is_stopping, step = accelerator.reduce(flags, "mean").tolist()
            self._steps_left = max(1, min(_AGREE_EVERY, int(_AGREE_SECONDS / max(step, 1e-3))))
            is_due, is_stopping = is_due > 0, is_stopping > 0
            reason = (reason or ("another process", 143)) if is_stopping else None
        return is_due, reason

    def stop_reason(self, ahead=0.0):
        """Return (why this process has to stop, exit status), or None; `ahead`: seconds that come next."""
        if self._signal is None and self._clock() + ahead + 2 * self._slowest_save >= self._ends_at:
            return _BUDGET, 0
        return self._signal

    def seconds_left(self):
        """Return the seconds until the time budget ends; inf without one."""
        return self._ends_at - self._clock()

    def saved(self, seconds):
        """Note that a state was saved now, which took so long."""
        self._saved_at, self._slowest_save = self._clock(), max(self._slowest_save, seconds)

    def _on_signal(self, number, _):
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        if self._clock() - self._signal_at < _ECHO_SECONDS:
            return
        self._signal_at = self._clock()
        if not self._is_deferred or self._signal is not None:
            raise Stopped(f"\nstopped by {name}; {self.again} resumes from what is saved", 128 + number)
        self._signal = name, 128 + number
        os.write(2, f"\n{name}: saving after this step; a second one stops at once\n".encode())  # print may be at work

    def _on_alarm(self, *_):
        raise Stopped(f"stopped by {_BUDGET}; {self.again} resumes from what is saved", 0)
