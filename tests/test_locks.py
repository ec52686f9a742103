"""A lock is one process's until it ends, and a run's folds have one each."""

import subprocess
import sys
from contextlib import ExitStack, redirect_stdout
from io import StringIO

import pytest

from src.config.settings import REPOSITORY
from src.errors import UserError
from src.locks import check_free, hold, hold_fold, opening

HOLDER = """
import sys
from pathlib import Path
from src.locks import hold_fold
held = [hold_fold(Path(sys.argv[1]), fold) for fold in sys.argv[2:]]
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds folds 1 and 10 of the run tmp_path/run until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), "1", "10"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_fold_that_another_process_trains_is_refused_and_others_are_not(tmp_path, holder):
    run = tmp_path / "run"
    assert check_free(run, [0], False) is True
    assert check_free(tmp_path / "run_fold1", [0, 1], True) is False  # another run's name
    for folds, is_overwritten, refused in (([1], False, "fold 1"), ([0, 1, 10], False, "folds 1, 10"),
                                           ([0], True, "folds 1, 10")):  # fmt: skip
        with pytest.raises(UserError) as error:
            check_free(run, folds, is_overwritten)
        assert str(error.value) == f"{run}: another process trains {refused}; wait until it ends or choose name=ANOTHER"
    holder.kill()
    holder.wait()
    assert check_free(run, [1], True) is False


def test_the_job_that_a_killed_command_has_left_is_seen(tmp_path):
    run = tmp_path / "run"
    with hold_fold(run, 0), hold_fold(run, 0, is_job=True):
        pass
    assert check_free(run, [0], False) is False
    with hold_fold(run, 1, is_job=True):
        assert check_free(run, [0], False) is True
        with pytest.raises(UserError, match="another process trains fold 1; wait"):
            check_free(run, [1], False)


def test_names_of_runs_do_not_collide(tmp_path):
    with ExitStack() as held:
        for name in ("run", "run_fold1", "run[1]", "run*"):
            held.enter_context(opening(tmp_path / name))
            assert check_free(tmp_path / name, [1], False) is False
            held.enter_context(hold_fold(tmp_path / name, 1))


def test_the_second_waits_and_says_so(tmp_path, holder):
    path = tmp_path / ".locks" / "run" / "fold1.lock"

    class Stdout(StringIO):
        def flush(self):  # it waits from now on
            holder.kill()

    with redirect_stdout(Stdout()) as printed:
        with hold(path, "waiting for another"):
            assert holder.wait() == -9
        with hold(path, "nobody"):
            pass
    assert printed.getvalue() == "waiting for another\n"
