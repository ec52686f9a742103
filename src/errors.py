"""Errors that end a program with one line: a user's mistake, or a stop that was asked for."""

import errno
import os
import re
import sys
from contextlib import contextmanager
from difflib import get_close_matches

from src.terminal import close_progress, paint

_SECRET = re.compile(r"(://)[^/@\s]*(?=@)|(://[^\s?]*\?)[^\s;,)]+")  # a URL's user and password, or its query


class UserError(Exception):
    """A user's mistake: "where: what is wrong, what was found; what to do", as one printable line, cut when long."""

    def __str__(self):
        line = printable(_SECRET.sub(r"\1\2***", super().__str__()))
        return line if len(line) <= 2000 else f"{line[:1400]} ... {line[-500:]}"


class Stopped(BaseException):
    """A program that was asked to stop has saved its work; not an `Exception`, so that nothing catches it."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status  # the program's exit status


_AGAIN = "run the same command again"
_RESUME = f"{_AGAIN} (without overwrite=true)"
_ADVICE = {
    errno.ENOSPC: f"free some disk space and {_RESUME}",
    errno.EDQUOT: f"free some of your quota and {_RESUME}",
    errno.EROFS: "set output_dir=FOLDER to a folder that can be written",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "allow it, or set output_dir=FOLDER to a folder that can be written"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: f"raise the limit of open files (ulimit -n 4096) and {_RESUME}",
    errno.ENOTDIR: "a folder is needed in its place; rename it or choose another folder",
    errno.EEXIST: "a folder is needed in its place; rename it or choose another folder",
}

_NO_MEMORY = r"DefaultCPUAllocator: can't|CUDA error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
_PEER_GONE = r"Connection (closed|reset) by peer|gloo/transport|connectFullMesh"  # what gloo says


@contextmanager
def one_line_errors(words=()):
    """Print what a person can correct, or has asked for, as one line on stderr and exit; all else passes through.

    Where --debug is among the command line's `words`, which loses it, everything passes through with its traceback.
    """
    if "--debug" in words:
        words.remove("--debug")
        yield
        return
    try:
        try:
            yield
        finally:
            close_progress()
        sys.stdout.flush()  # so that a closed pipe is noticed here
    except UserError as error:
        _end(f"error: {error}", 2)
    except Stopped as stop:
        _end(str(stop), stop.status)
    except KeyboardInterrupt:
        _end(f"\nstopped; to resume, {_AGAIN}", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"error: {error.filename}: {error.strerror or first_line(error)}; {_ADVICE.get(error.errno, _AGAIN)}", 2)
    except Exception as error:
        if (found := explain(error)) is None:
            raise
        _end(f"error: {found}", 2)


def explain(error):
    """Return, in words, what is known of an error of memory or another process, and what to do; None of other errors.

    torch, which is not imported here, has classes for a GPU's errors and plain text for a CPU's.
    """
    name, text = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or re.search(_NO_MEMORY, text):
        return "the device is out of memory; lower train.batch_size, infer.batch_size or image_size"
    if re.fullmatch("Dist[A-Za-z]*Error", name) or re.search(_PEER_GONE, text):
        return f"another process of this run has ended or does not answer; {_RESUME}, on every host, to resume"
    if "Expected to have finished reduction in the prior iteration" in text:
        return "some of the network's parameters reach no loss, whose gradients other processes wait for; freeze them"
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        advice = f"lower train.num_workers or train.batch_size and {_RESUME} to resume"
        return f"a loader worker was killed, most often because memory ran out; {advice}"
    return None


def _end(line, status):
    print(paint(line, "red", sys.stderr) if line.startswith("error") else line, file=sys.stderr)
    sys.exit(status)


def printable(text):
    """Return the text with every character escaped that could break a line or control a terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def first_line(error):
    """Return the first line of an exception's text, or its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(word, known):
    """Return "; did you mean X?" for the known word nearest to `word`, or an empty string when none is near."""
    matches = get_close_matches(str(word), [str(one) for one in known], n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def listing(names, limit=8):
    """Return "a, b, c ... (12 in all)": the first `limit` names, and how many there are when some are left out."""
    names = [str(name) for name in names]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} ... ({len(names)} in all)"
