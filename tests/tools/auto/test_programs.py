"""Real programs on lanes: order, status, what they print, and what happens when their time is over."""

import subprocess
import sys
import time

import psutil
import pytest

from src.config.settings import REPOSITORY
from tools.auto.programs import Lanes, Program

SLEEP = ["timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)"]


@pytest.fixture(scope="module")
def lanes():
    found = Lanes()
    yield found
    found.stop()


@pytest.mark.slow
def test_commands_run_in_turn_into_a_log_until_one_fails(lanes, tmp_path):
    commands = [
        ["timeit", "-n", "1", "-r", "1", "print('first')"],
        ["tools.blend", "name=x"],
        ["timeit", "print('never')"],
    ]
    program = Program("three", commands, tmp_path / "three.log")
    after = []
    lanes.run([program], time.monotonic() + 120, after.append)
    assert program.status == 2
    assert after == [program]
    text = program.log.read_text()
    assert "\nfirst\n" in text
    assert "never" not in text.replace("$ timeit print('never')", "")
    assert program.last_line() == "error: command line: no inputs; write RUN_A RUN_B, folders of runs"


@pytest.mark.slow
def test_what_a_program_is_followed_by_runs_too(lanes, tmp_path):
    quick = ["timeit", "-n", "1", "-r", "1", "pass"]
    second = Program("second", [quick], tmp_path / "second.log")
    lanes.run([Program("first", [quick], tmp_path / "first.log")], time.monotonic() + 120,
              lambda program: [second] if program.title == "first" else [])  # fmt: skip
    assert second.status == 0


@pytest.mark.slow
def test_a_program_is_stopped_when_its_own_time_or_that_of_all_is_over(lanes, tmp_path):
    late = Program("late", [SLEEP], tmp_path / "late.log", ends_at=time.monotonic() + 1)
    began = time.monotonic()
    lanes.run([late], time.monotonic() + 60)
    others = [Program(f"other{number}", [SLEEP], tmp_path / f"{number}.log") for number in range(len(lanes) + 1)]
    lanes.run(others, time.monotonic() + 1)
    assert time.monotonic() - began < 30
    assert late.status not in (None, 0)
    assert [one.status is None for one in others] == [False] * len(lanes) + [True]  # the last has not begun
    assert not lanes.running


@pytest.mark.slow
def test_what_a_stopped_program_has_started_is_stopped_with_it(lanes, tmp_path):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(77)'])"
    program = Program("parent", [["timeit", "-n", "1", "-r", "1", child]], tmp_path / "parent.log")
    lanes.start(program)
    parent = psutil.Process(program.process.pid)
    while not (children := parent.children(recursive=True)):
        assert is_alive(parent)
        time.sleep(0.01)
    lanes.run([program], time.monotonic())
    assert program.status not in (None, 0)
    until = time.monotonic() + 60
    while any(map(is_alive, children)):
        assert time.monotonic() < until
        time.sleep(0.01)


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


KILLED = """
import sys, time
from pathlib import Path
from tools.auto import programs
programs._PRELOADED = []
sleep = ["timeit", "-n", "1", "-r", "1", "import time; time.sleep(78)"]
program = programs.Program("sleep", [sleep], Path(sys.argv[1]))
programs.Lanes(is_single=True).start(program)
print(program.process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_program_ends_when_what_started_it_is_killed(tmp_path):
    log = tmp_path / "sleep.log"
    command = subprocess.Popen([sys.executable, "-c", KILLED, str(log)], cwd=REPOSITORY, stdout=subprocess.PIPE)
    program = psutil.Process(int(command.stdout.readline()))
    while not (log.is_file() and "$ timeit" in log.read_text()):
        time.sleep(0.01)
    command.kill()
    assert psutil.wait_procs([program], timeout=20)[0]


def test_the_last_line_of_a_program_that_has_said_nothing(tmp_path):
    assert Program("none", [], tmp_path / "missing.log").last_line() == "no output"
