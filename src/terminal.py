"""What a person sees while a program runs: colours, progress bars and the epochs' table; the door to rich."""

import os
import sys
import time
from contextlib import suppress

_CODES = {"red": "31", "yellow": "33", "bold": "1", "best": "1;32"}  # of ANSI: importing rich would slow an error
_open_bars = []  # at most one; an exception may leave it to its generator, which ends much later


def paint(text, style, stream=None):
    """Return the text red, yellow, bold or best (bold green), where the stream (None: stdout) is a colour terminal."""
    is_plain = os.environ.get("NO_COLOR") or (os.name == "nt" and "WT_SESSION" not in os.environ)
    return text if is_plain or not _is_terminal(stream or sys.stdout) else f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def warn(line):
    """Print a line on stderr, yellow on a terminal."""
    print(paint(line, "yellow", sys.stderr), file=sys.stderr, flush=True)


def track(items, title, total, num_done=0, is_shown=True, count=lambda item: 1, unit="images"):
    """Yield items behind a bar with images/s and the time left, in notebooks and where stderr is a terminal.

    total: number of images (or of another unit), of which `num_done` are done; count: item -> number of its images.
    """
    close_progress()
    if not is_shown or not (_find_notebook() or _is_terminal(sys.stderr)):
        yield from items
        return
    _open_bars.append(bar := _Bar(title, total, num_done, unit))
    try:
        for item in items:
            yield item
            bar.advance(count(item))
    finally:
        if bar in _open_bars:
            close_progress()


def close_progress():
    """Take away the bar that is open, if any, so that other text may follow."""
    while _open_bars:
        _open_bars.pop().clear()


class _Bar:
    """One line that is drawn over itself; the cursor stays visible, so that no kill leaves a terminal without one.

    The bars of a notebook's cell share one display. What `!python` writes there is kept, so such bars are drawn rarely.
    """

    _display, _cell = None, None  # of IPython; the number of the cell that has it

    def __init__(self, title, total, num_done, unit):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._shell, self._began, self._next, self._unit = _find_notebook(), time.monotonic(), 0.0, unit
        self._console = Console(stderr=True, force_jupyter=False)
        self._console.width = 80 if self._shell else self._console.width - 1
        texts, speed = TextColumn("{task.description}"), TextColumn("{task.fields[speed]}")
        columns = (texts, BarColumn(None), MofNCompleteColumn(), speed, TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._console, auto_refresh=False)  # never started: it renders
        self._progress.add_task(title, total=total, completed=num_done, speed="")
        if self._shell and _Bar._cell != self._shell.execution_count:
            _Bar._display = sys.modules["IPython"].display.display({"text/plain": ""}, raw=True, display_id=True)
            _Bar._cell = self._shell.execution_count
        self.advance(0)

    def advance(self, count):
        """Count images; draw, which takes 1 ms, at most ten times a second."""
        (task,) = self._progress.tasks
        speed = f"{task.speed:,.{0 if task.speed >= 10 else 1}f} {self._unit}/s" if task.speed else ""
        self._progress.update(task.id, advance=count, speed=speed)
        if (now := time.monotonic()) >= self._next:
            with self._console.capture() as line:
                self._console.print(self._progress)
            self._write(line.get().rstrip("\n"))
            is_kept = self._shell or "JPY_PARENT_PID" in os.environ
            self._next = now + (max(0.5, (now - self._began) / 20) if is_kept else 0.1)

    def clear(self):
        self._write("" if self._shell else " " * self._console.width + "\r")

    def _write(self, line):
        """Draw a line, which is as wide as all others, over the one before it."""
        with suppress(OSError, ValueError):  # a terminal that is gone ends no training
            if self._shell:
                _Bar._display.update({"text/plain": line}, raw=True)
            else:
                print(f"\r{line}", end="", file=sys.stderr, flush=True)


def _is_terminal(stream):
    return os.environ.get("TERM") != "dumb" and stream is not None and stream.isatty()


def _find_notebook():
    """Return IPython's shell where this process is the kernel of a notebook, else None."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell if hasattr(shell, "kernel") else None


def format_epoch(cells, num_epochs, metric_name, is_best=False):
    """Return a line of the epochs' table, with its numbers in fixed places, at most 80 columns wide.

    cells: epoch (text), loss, validation loss, score, images/s and seconds; text, as the header's, stays what it is and
    None is blank. Without a score, as in fold=all, the columns of the validation are left out.
    """
    score_width, decimals = min(max(11, len(metric_name)), 27), (0, 4, 4, 5, 1, 1)
    widths = (max(5, 2 * len(str(num_epochs)) + 1), 9, 9, score_width, 8, 7)
    epoch, loss, val_loss, score, speed, seconds = map(_fit, cells, widths, decimals)
    val = f"  {val_loss}  {score}{'*' if is_best else ' '} " if cells[3] is not None else "  "
    line = f"{epoch}  {loss}{val}{speed}  {seconds}"
    return paint(line, "best") if is_best else line.rstrip()


def _fit(value, width, decimals):
    """Return a number or a text, right-aligned; a number that is too wide in powers of ten, such as 1.23e+08."""
    if value is None or isinstance(value, str):
        text = value or ""
        return f"{text if len(text) <= width else f'{text[: width - 3]}...':>{width}}"
    text = f"{value:.{decimals}f}"
    return f"{text if len(text) <= width else f'{value:.{max(decimals - 2, 0)}e}':>{width}}"
