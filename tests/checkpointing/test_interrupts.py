"""When it is time to save, and to stop."""

import os
import signal
import threading
import time

import pytest

from src.checkpointing.interrupts import Interrupts
from src.errors import Stopped


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self):
        return self.now


class Process:
    """One of two processes: `reduce` adds what the other one says."""

    num_processes, device, is_main_process = 2, "cpu", True

    def __init__(self, other):
        self.other, self.num_agreements = other, 0

    def reduce(self, flags, how):
        assert how == "mean"
        self.num_agreements += 1
        return (flags + flags.new_tensor([*self.other, 0.0])) / 2


def test_a_state_is_due_after_its_minutes(accelerator):
    clock = Clock()
    interrupts = Interrupts(10, None, clock=clock)
    for now, is_due in ((100, False), (699, False), (700, True), (701, True)):
        clock.now = now
        assert interrupts.check(accelerator) == (is_due, None)
    interrupts.saved(seconds=3)
    assert interrupts.check(accelerator) == (False, None)
    assert Interrupts(0, None, clock=clock).check(accelerator) == (True, None)


def test_the_time_budget_leaves_room_for_a_step_and_for_saving(accelerator):
    clock = Clock()
    interrupts = Interrupts(60, 50, clock=clock)  # to 150; saving is assumed to take 2 s, twice that is kept
    ending = ("the end of time_budget", 0)
    with interrupts.deferred():
        assert interrupts.check(accelerator) == (False, None)
        clock.now = 107  # a step of 7 s
        assert interrupts.check(accelerator) == (False, None)
        clock.now = 108
        assert interrupts.check(accelerator, is_last=True, ahead=31) == (False, ending)
        assert interrupts.check(accelerator, is_last=True, ahead=30) == (False, None)
        for now, expected in ((138.9, None), (139, ending)):  # what lay between, a validation, is no step
            clock.now = now
            assert interrupts.check(accelerator) == (False, expected)
    interrupts.saved(seconds=10)
    clock.now = 129.9
    assert interrupts.stop_reason() is None
    clock.now = 130
    assert interrupts.stop_reason() == ending


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0.0, 0.0], (False, None)),
        ([1.0, 0.0], (True, None)),  # the main process says that a state is due
        ([0.0, 1.0], (False, ("another process", 143))),
    ],
)
def test_several_processes_agree_after_every_tenth_step_and_after_the_last(other, expected):
    process, interrupts = Process(other), Interrupts(10, None)
    assert [interrupts.check(process) for _ in range(9)] == [(False, None)] * 9
    assert process.num_agreements == 0
    assert interrupts.check(process) == expected
    assert interrupts.check(process, is_last=True) == expected
    assert process.num_agreements == 2


def test_several_processes_agree_sooner_where_steps_are_slow():
    """Torchrun kills a process 30 seconds after the signal."""
    clock, process = Clock(), Process([0.0, 0.0])
    interrupts = Interrupts(10, None, clock=clock)
    for num_steps in (10, 2, 2):  # the first ten are not known to be slow; the mean of 4 and 0 seconds a step is 2
        before = process.num_agreements
        for _ in range(num_steps):
            assert process.num_agreements == before
            clock.now += 4
            interrupts.check(process)
        assert process.num_agreements == before + 1


def test_the_time_budget_is_an_alarm_before_training_and_only_there():
    interrupts, before = Interrupts(60, 0.05), signal.getsignal(signal.SIGALRM)
    line = "^stopped by the end of time_budget; the same command resumes from what is saved$"
    with pytest.raises(Stopped, match=line) as stop, interrupts.alarm():
        time.sleep(5)
    assert stop.value.status == 0
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    with pytest.raises(Stopped), interrupts.alarm():  # it is over already
        time.sleep(5)
    with Interrupts(60, 100).alarm():
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    for interrupts, num_processes in ((Interrupts(60, None), 1), (Interrupts(60, 100), 2)):
        with interrupts.alarm(num_processes):
            assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_thread_gets_no_signals_and_trains_all_the_same():
    timers = []

    def train():
        interrupts = Interrupts(60, 100)
        with interrupts.handle_signals(), interrupts.alarm():
            timers.append(signal.getitimer(signal.ITIMER_REAL))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert timers == [(0, 0)]


def test_a_signal_waits_for_the_step_while_training_and_for_nothing_else(accelerator, capfd):
    clock, before = Clock(), signal.getsignal(signal.SIGTERM)
    interrupts = Interrupts(60, None, clock=clock)
    with interrupts.handle_signals():
        with pytest.raises(Stopped, match="stopped by SIGTERM; the same command resumes") as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.value.status == 143
        os.kill(os.getpid(), signal.SIGTERM)  # `timeout` sends two, of which the second would end what the first began
        clock.now += 1
        with pytest.raises(Stopped, match="SIGTERM; the same command without overwrite=true resumes"):
            with Interrupts(60, None, is_overwriting=True).handle_signals():
                os.kill(os.getpid(), signal.SIGTERM)
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.check(accelerator) == (False, ("Ctrl-C", 130))
            assert interrupts.stop_reason() == ("Ctrl-C", 130)
            os.kill(os.getpid(), signal.SIGINT)  # in the same moment it is the same one
            assert capfd.readouterr().err == "\nCtrl-C: saving after this step; a second one stops at once\n"
            clock.now += 1
            with pytest.raises(Stopped, match="stopped by Ctrl-C"):
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_between_two_folds_ends_the_run_before_the_next(accelerator):
    """What the first fold was asked for holds for the rest of the run."""
    interrupts = Interrupts(60, None)
    with interrupts.handle_signals():
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.check(accelerator, is_last=True)[1] == ("SIGTERM", 143)
