"""What ends a program in one line: a mistake that a person can mend, or the wish to stop; and words for both."""

import errno
import os
import re
import sys
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """A mistake a person can mend: "where: what is wrong, what was found; what to do", in one line.

    What it quotes from files is escaped where it would break the line or steer the terminal, and cut when very long.
    """

    def __str__(self):
        line = printable(super().__str__())
        return line if len(line) <= 2000 else f"{line[:1400]} ... {line[-500:]}"


class Stopped(BaseException):
    """A program that was asked to end has saved what it has; `Exception` it is not, as none should be caught."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status  # that the program exits with


_AGAIN = "run the same command again"
_NOT_ANEW = "(without overwrite=true)"  # which would delete what is saved
_GOES_ON = f"{_AGAIN} {_NOT_ANEW}: it goes on from what is saved"
_MENDS = {
    errno.ENOSPC: f"free some disk space and {_AGAIN} {_NOT_ANEW}",
    errno.EDQUOT: f"free some of your quota and {_AGAIN} {_NOT_ANEW}",
    errno.EROFS: "set output_dir=FOLDER to a folder that can be written",
    errno.EACCES: "allow it, or set output_dir=FOLDER to a folder that can be written",
    errno.ENOTDIR: "it stands where a folder is needed; rename it or choose another folder",
    errno.EEXIST: "it stands where a folder is needed; rename it or choose another folder",
}


@contextmanager
def one_line_errors():
    """Print what a person can mend as one line on stderr and exit with status 2; every other exception passes through.

    That is a UserError, a file that cannot be read or written, memory that is not there, a loader process that was
    killed, a process of torchrun that has gone. Ctrl-C ends with one line and status 130, `Stopped` with its line and
    its status.
    """
    try:
        yield
        sys.stdout.flush()  # here, so that a reader who has gone is noticed here
    except UserError as error:
        _end(f"error: {error}", 2)
    except Stopped as stop:
        _end(str(stop), stop.status)
    except KeyboardInterrupt:
        _end(f"\nstopped; to go on, {_AGAIN}", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"error: {error.filename}: {error.strerror}; {_MENDS.get(error.errno, _AGAIN)}", 2)
    except Exception as error:
        if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
            _end("error: the device is out of memory; lower train.batch_size, infer.batch_size or image_size", 2)
        if _is_peer_lost(error):
            _end(f"error: another process of this run has ended; {_GOES_ON}", 2)
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            _end(
                "error: a loader process was killed, most often because memory ran out; lower train.num_workers or "
                f"train.batch_size and {_GOES_ON}",
                2,
            )
        raise


def _is_torch_out_of_memory(error):
    """On a GPU it is a class of its own, of torch that is not imported here; on a CPU a RuntimeError."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _is_peer_lost(error):
    """On CPUs gloo says that a connection was closed or reset; on GPUs torch has a class of its own."""
    return type(error).__name__ == "DistBackendError" or re.search("Connection (closed|reset) by peer", str(error))


def _end(line, status):
    print(line, file=sys.stderr)
    sys.exit(status)


def printable(text):
    """Return the text with an escape for each letter that could break a line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def nearest(word, known):
    """Return "; did you mean X?" for the known word nearest to `word`, or an empty string when none is near."""
    matches = get_close_matches(str(word), [str(one) for one in known], n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def listing(names, limit=8):
    """Return "a, b, c ... (12 in all)": the first `limit` names, and how many there are when some are left out."""
    names = [str(name) for name in names]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} ... ({len(names)} in all)"
