"""What a program prints, and the status it ends with, for each mistake that a person can correct."""

import errno

import pytest
import torch

from src.errors import Stopped, UserError, first_line, listing, nearest, one_line_errors, printable

NO_MEMORY = "error: the device is out of memory; lower train.batch_size, infer.batch_size or image_size\n"
AGAIN = "run the same command again"


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (UserError("a.csv: is empty; copy it again"), "error: a.csv: is empty; copy it again\n", 2),
        (Stopped("stopped by SIGTERM", 143), "stopped by SIGTERM\n", 143),
        (KeyboardInterrupt(), f"\nstopped; to resume, {AGAIN}\n", 130),
        (OSError(errno.ENOSPC, "No space left on device", "a.pt"),
         f"error: a.pt: No space left on device; free some disk space and {AGAIN} (without overwrite=true)\n", 2),
        (PermissionError(errno.EACCES, "Permission denied", "outputs"),
         "error: outputs: Permission denied; allow it, or set output_dir=FOLDER to a folder that can be written\n", 2),
        (OSError(errno.ENAMETOOLONG, "File name too long", "o/aaa"),
         "error: o/aaa: File name too long; choose a shorter name\n", 2),
        (OSError(errno.EIO, "Input/output error", "a.pt"), f"error: a.pt: Input/output error; {AGAIN}\n", 2),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), NO_MEMORY, 2),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported"), NO_MEMORY, 2),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:3"),
         f"error: another process of this run has ended or does not answer; {AGAIN} (without overwrite=true), on every "
         "host, to resume\n", 2),
        (RuntimeError("Expected to have finished reduction in the prior iteration before starting a new one."),
         "error: some of the network's parameters reach no loss, whose gradients other processes wait for; "
         "freeze them\n", 2),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
         "error: a loader worker was killed, most often because memory ran out; lower train.num_workers or "
         f"train.batch_size and {AGAIN} (without overwrite=true) to resume\n", 2),
        (MemoryError("Unable to allocate 728. TiB"), NO_MEMORY, 2),
    ],
)  # fmt: skip
def test_it_is_one_line(error, line, status, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    assert stop.value.code == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("names no file"), RuntimeError("DataLoader: a bug")])
def test_everything_else_passes_through(error):
    with pytest.raises(type(error), match=str(error)), one_line_errors():
        raise error


def test_debug_shows_the_traceback():
    words = ["fold=0", "--debug"]
    with pytest.raises(UserError, match=r"^a\.csv: is empty$"), one_line_errors(words):
        assert words == ["fold=0"]
        raise UserError("a.csv: is empty")


def test_a_cpu_without_memory_is_one_line(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        torch.empty(10**14)
    assert capsys.readouterr().err == NO_MEMORY


def test_an_error_without_text_has_a_first_line():
    assert first_line(AssertionError()) == "AssertionError"
    assert first_line(ValueError(" one\ntwo")) == "one"


def test_what_a_message_quotes_is_one_printable_line():
    assert printable("사진\n\x1b[31m") == "사진\\n\\x1b[31m"
    assert len(str(UserError("x" * 5000))) < 2000
    assert listing(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7 ... (10 in all)"
    assert nearest("adamm", ["adam", "sgd"]) == "; did you mean adam?"
    assert nearest("adamm", ["sgd"]) == ""
