"""The one exception that a person's mistake raises, and how a program ends on it."""

import sys
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """A mistake a person can mend: "where: what is wrong, what was found; what to do", in one line.

    What it quotes from files is escaped where it would break the line or steer the terminal, and cut when very long.
    """

    def __str__(self):
        line = super().__str__()
        if not line.isprintable():
            line = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
        return line if len(line) <= 2000 else f"{line[:1400]} ... {line[-500:]}"


@contextmanager
def one_line_errors():
    """Print what a person can mend as one line on stderr and exit with status 2; every other exception passes through.

    That is a UserError, and a device that is out of memory; Ctrl-C ends with one line and status 130.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last finished epoch", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        print(
            "error: the device is out of memory; lower train.batch_size, infer.batch_size or image_size",
            file=sys.stderr,
        )
        sys.exit(2)


def nearest(word, known):
    """Return "; did you mean X?" for the known word nearest to `word`, or an empty string when none is near."""
    matches = get_close_matches(str(word), [str(one) for one in known], n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def listing(names, limit=8):
    """Return "a, b, c ... (12 in all)": the first `limit` names, and how many there are when some are left out."""
    names = [str(name) for name in names]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} ... ({len(names)} in all)"
