"""When it is time to save, and to end."""

import os
import signal
import threading
import time

import pytest

from src.checkpointing.interrupts import Watch
from src.errors import Stopped


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self):
        return self.now


def test_a_state_is_due_after_its_minutes(accelerator):
    clock = Clock()
    watch = Watch(10, None, clock=clock)
    for now, is_due in ((100, False), (699, False), (700, True), (701, True)):
        clock.now = now
        assert watch.look(accelerator) == (is_due, None)
    watch.saved(seconds=3)
    assert watch.look(accelerator) == (False, None)
    assert Watch(0, None, clock=clock).look(accelerator) == (True, None)


def test_the_time_budget_leaves_room_for_a_step_and_for_saving(accelerator):
    clock = Clock()
    watch = Watch(60, 50, clock=clock)  # to 150; saving is thought to take 2 s, twice that is kept
    ending = ("the end of time_budget", 0)
    with watch.training():
        assert watch.look(accelerator) == (False, None)
        clock.now = 107  # a step of 7 s
        assert watch.look(accelerator) == (False, None)
        clock.now = 108
        assert watch.look(accelerator, is_last=True, ahead=31) == (False, ending)
        assert watch.look(accelerator, is_last=True, ahead=30) == (False, None)
        for now, expected in ((138.9, None), (139, ending)):  # what lay between, a validation, is no step
            clock.now = now
            assert watch.look(accelerator) == (False, expected)
    watch.saved(seconds=10)
    clock.now = 129.9
    assert watch.ending() is None
    clock.now = 130
    assert watch.ending() == ending


def test_the_time_budget_is_an_alarm_before_training_and_only_there():
    watch, before = Watch(60, 0.05), signal.getsignal(signal.SIGALRM)
    with pytest.raises(Stopped, match="^stopped by the end of time_budget; the same command goes on from") as stop:
        with watch.preparing():
            time.sleep(5)
    assert stop.value.status == 0
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    with pytest.raises(Stopped), watch.preparing():  # it is over already
        time.sleep(5)
    with Watch(60, 0.2).preparing():
        pass
    time.sleep(0.3)
    for watch, num_processes in ((Watch(60, None), 1), (Watch(60, 100), 2)):
        with watch.preparing(num_processes):
            assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_thread_hears_nothing_and_trains_all_the_same():
    heard = []

    def train():
        watch = Watch(60, 100)
        with watch.listening(), watch.preparing():
            heard.append(signal.getitimer(signal.ITIMER_REAL))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert heard == [(0, 0)]


def test_a_signal_waits_for_the_step_while_training_and_for_nothing_else(accelerator, capfd):
    clock, before = Clock(), signal.getsignal(signal.SIGTERM)
    watch = Watch(60, None, clock=clock)
    with watch.listening():
        with pytest.raises(Stopped, match="stopped by SIGTERM; the same command goes on") as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.value.status == 143
        with pytest.raises(Stopped, match="SIGTERM; the same command without overwrite=true goes on"):
            with Watch(60, None, is_overwriting=True).listening():
                os.kill(os.getpid(), signal.SIGTERM)
        with watch.training():
            os.kill(os.getpid(), signal.SIGINT)
            assert watch.look(accelerator) == (False, ("Ctrl-C", 130))
            assert watch.ending() == ("Ctrl-C", 130)
            os.kill(os.getpid(), signal.SIGINT)  # in the same moment it is the same one
            assert capfd.readouterr().err == "\nCtrl-C: saving after this step; once more ends at once\n"
            clock.now += 1
            with pytest.raises(Stopped, match="stopped by Ctrl-C"):
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
