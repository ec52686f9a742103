"""Bars and colours on a pseudo-terminal, in a notebook and where there is neither; the epochs' aligned table."""

import os
import re
import sys
import time

import nbformat
import pytest
from nbclient import NotebookClient

from src.config.settings import REPOSITORY
from src.terminal import _Bar, format_epoch

BAR = """
import sys, time
from src.errors import UserError, one_line_errors
from src.terminal import paint, track, warn

with one_line_errors():
    for step in track(range(40), "fold 0 epoch 1/8", 1000, is_shown=len(sys.argv) < 3, count=lambda step: 25):
        time.sleep(0.01)
    print(paint("row", "best"))
    warn("careful")
    if sys.argv[1:] == ["fails"]:
        for number in track([1, 2], "stuck", 2):
            raise UserError("x: is wrong; do y")
"""
HEADER = ("epoch", "loss", "val loss", "roc_auc", "images/s", "seconds")


def run_on_terminal(*words, columns=80, **environment):
    """Run BAR on a pseudo-terminal of some columns; return all that it wrote there."""
    import fcntl
    import pty
    import struct
    import termios

    given = {"TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), **environment}
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "JPY_PARENT_PID")}
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execve(sys.executable, [sys.executable, "-c", BAR, *words], kept | given)
    written = b""
    try:
        while chunk := os.read(master, 4096):
            written += chunk
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.waitpid(pid, 0)
    os.close(master)
    return written.decode().replace("\r\n", "\n")


def strip_codes(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_a_bar_fits_the_terminal_and_is_gone_when_done(columns):
    began = time.monotonic()
    written = run_on_terminal(columns=columns)
    seconds = time.monotonic() - began
    *drawn, last = strip_codes(written).split("\r")
    shown = [line for line in drawn if line.strip()]
    assert 2 <= len(shown) <= 2 + 10 * seconds  # ten a second are the most, of 41
    assert all(len(line) < columns for line in drawn)
    assert last == "row\ncareful\n"
    assert not drawn[-1].strip()  # blanks over the bar, before the cursor goes back
    assert len(drawn[-1]) >= len(shown[-1].rstrip())
    assert shown[0].startswith("fold 0 ep")
    assert "\x1b[?25l" not in written  # the cursor is never hidden
    if columns == 80:
        assert re.search(r"fold 0 epoch 1/8 \S+ +\d+/1000 [\d,]+ images/s 0:00:\d\d", shown[-1])


def test_colours_follow_the_terminal():
    written = run_on_terminal("fails")
    assert "\x1b[1;32mrow\x1b[0m\n\x1b[33mcareful\x1b[0m\n" in written
    assert written.endswith("\r\x1b[31merror: x: is wrong; do y\x1b[0m\n")  # after the bar that it left behind
    assert run_on_terminal("x", "hidden", NO_COLOR="1") == "row\ncareful\n"
    assert run_on_terminal(TERM="dumb") == "row\ncareful\n"


def test_what_a_notebook_keeps_of_a_subprocess_is_little():
    began = time.monotonic()
    written = run_on_terminal(JPY_PARENT_PID="1").split("\r")
    bars = [one for one in written if "fold 0" in one]
    assert 1 <= len(bars) <= 1 + (time.monotonic() - began) / 0.5  # two a second are the most


def test_without_a_terminal_nothing_is_drawn_and_rich_is_not_imported(capfd):
    code = BAR + "\nassert 'rich' not in sys.modules\n"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    status = os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", code], environment)
    assert (status, *capfd.readouterr()) == (0, "row\n", "careful\n")


class Counting(NotebookClient):
    """Counts the messages by kind."""

    def process_message(self, message, cell, cell_index):
        self.kinds = [*getattr(self, "kinds", []), message["msg_type"]]
        return super().process_message(message, cell, cell_index)


@pytest.mark.slow
def test_the_bars_of_a_notebooks_cell_share_one_display():
    code = """
import time
from src.terminal import track
for epoch in range(5):
    for step in track(range(20), f"epoch {epoch}", 20):
        time.sleep(0.03)
    print("row", epoch)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client = Counting(notebook, resources={"metadata": {"path": str(REPOSITORY)}})
    began = time.monotonic()
    client.execute()
    seconds = time.monotonic() - began
    display, *printed = notebook.cells[0].outputs
    assert display["data"] == {"text/plain": ""}
    assert "".join(one["text"] for one in printed) == "".join(f"row {epoch}\n" for epoch in range(5))
    # each bar is drawn as it begins and as it ends, and at most twice a second in between
    assert 10 <= client.kinds.count("update_display_data") <= 10 + 2 * seconds


def test_the_epochs_table_is_aligned():
    rows = [
        (HEADER, 8, "roc_auc", False),
        (("1/8", 0.51234, 0.4021, 0.98123, 1543.2, 0.71), 8, "roc_auc", True),
        (("8/8", 12345.6789, 123456.789, -1234567.8, 0.44, 36000.0), 8, "roc_auc", False),
        (("mean", None, 0.4, 0.99, "", ""), 8, "roc_auc", False),
    ]
    assert [format_epoch(*row) for row in rows] == [
        "epoch       loss   val loss      roc_auc  images/s  seconds",
        "  1/8     0.5123     0.4021      0.98123*   1543.2      0.7",
        "  8/8   1.23e+04   1.23e+05   -1.235e+06       0.4  36000.0",
        " mean                0.4000      0.99000",
    ]
    without = [format_epoch((*row[0][:2], None, None, *row[0][4:]), 8, "roc_auc") for row in rows[:2]]
    assert without == ["epoch       loss  images/s  seconds", "  1/8     0.5123    1543.2      0.7"]


@pytest.mark.parametrize("name", ["r2", "quadratic_kappa", "a_metric_of_ones_own_with_a_name_of_any_length"])
def test_a_thousand_epochs_and_any_name_fit_80_columns(name):
    header = format_epoch(("epoch", "loss", "val loss", name, "images/s", "seconds"), 1000, name)
    row = format_epoch(("1000/1000", 0.5, 0.25, 0.125, 99999.0, 99999.0), 1000, name)
    assert len(header) == len(row) <= 80
    assert row.index("0.12500") + len("0.12500") == header.index(name[:24]) + min(len(name), 27)


def test_a_bar_counts_in_the_unit_that_it_is_given(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    bar = _Bar("archive.zip", 12.5, 2, "MB")
    for _ in range(3):
        time.sleep(0.11)  # a bar is drawn ten times a second
        bar.advance(2.5)
    assert re.search(r"archive.zip \S+ +9/12 [\d,.]+ MB/s", strip_codes(capsys.readouterr().err).rpartition("\r")[2])
