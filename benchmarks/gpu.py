"""Everything that needs a GPU, in one command of a few minutes: is it right, how fast is it, and what bounds it.

Each part runs in a process of its own, within its share of the time: one that fails, runs out of memory or hangs costs
the others nothing. The report is written after every figure, so that a kill loses none.
"""

import gc
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.report import read_words
from src.errors import UserError, first_line, listing, one_line_errors
from src.files import save_json

USAGE = """usage: python -m benchmarks.gpu output=FILE.json [key=value ...]

  minutes=8       for everything; each part has a share of it, and leaves out
                  what does not fit
  device=cuda     cpu: a miniature of every part, to try the command itself
  parts=NAME,...  only these; all if left out:
{parts}
  commit=HASH     of the code, where git is not at hand
  folder=FOLDER   for images, caches and runs, deleted at the end; the system's
                  temporary folder if left out

Images and networks are drawn, nothing is downloaded. Prints a table, and what
bounds each network. FILE.json holds the raw figures, and FILE.log what was
printed meanwhile. Exits with 1 where a check or a part fails: docs/gpu.md.
"""


@dataclass(frozen=True)
class Part:
    """A share of the time, in words, and the function bench -> [(name, () -> row or rows)] that lists its figures."""

    weight: float
    caption: str
    module: str
    function: str


PARTS = {
    "machine": Part(10, "the GPU, versions, the limits of arithmetic and bus", "gpu_speed", "list_machine"),
    "images": Part(25, "draws the images; the cache is filled", "gpu_speed", "list_images"),
    "correctness": Part(45, "each precision against fp32 on the CPU", "gpu_correctness", "list_correctness"),
    "runs": Part(75, "whole runs: scores, resuming, inference", "gpu_correctness", "list_runs"),
    "train": Part(150, "train.py's loop against the same steps alone, and peers", "gpu_speed", "list_training"),
    "data": Part(55, "the loader alone, by workers; decoding", "gpu_speed", "list_data"),
    "inference": Part(40, "1 and 5 networks, with and without views", "gpu_speed", "list_inference"),
    "memory": Part(35, "peaks, and the largest batch", "gpu_speed", "list_memory"),
    "switches": Part(45, "each with and without, by turns", "gpu_speed", "list_switches"),
}
_ALWAYS = ("machine", "images")  # what the others need
_GRACE = 1.5  # times its share and a second: when a part that hangs in one figure is killed
_LEAST = 2  # seconds: less is too little for any part
DEFAULTS = {"output": "", "minutes": "8", "device": "cuda", "parts": "", "commit": "", "folder": ""}


def main(words):
    """Run the command line `words`."""
    began = time.monotonic()
    if {"--help", "-h"} & set(words):
        print(USAGE.format(parts="\n".join(f"    {name:<13} {part.caption}" for name, part in PARTS.items())), end="")
        return
    with one_line_errors():
        given = read_given(words)
        report = Report(Path(given["output"]), ["python", "-m", "benchmarks.gpu", *words], given)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part that runs ends, too
        folder = Path(tempfile.mkdtemp(prefix="gpu_", dir=given["folder"] or None))
        try:
            run_parts(given | {"folder": str(folder)}, report, began + 60 * given["minutes"])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(report.text())
    sys.exit(report.has_failed)


def read_given(words):
    """Return {key: value} of the command line; a UserError says what is wrong in it."""
    given = read_words(words, DEFAULTS, "benchmarks.gpu", whole_numbers=["minutes"])
    if not given["output"]:
        raise UserError("command line: no output; write for example output=outputs/benchmarks/gpu.json")
    if given["device"] not in ("cuda", "cpu"):
        raise UserError(f"device={given['device']}: not one of cuda, cpu")
    asked = [one for one in given["parts"].split(",") if one]
    if unknown := [one for one in asked if one not in PARTS]:
        raise UserError(f"parts={unknown[0]}: no such part; the parts are {listing(PARTS, 20)}")
    given["parts"] = [one for one in PARTS if not asked or one in asked or one in _ALWAYS]
    if given["folder"] and not Path(given["folder"]).is_dir():
        raise UserError(f"folder={given['folder']}: no such folder; make it, or leave it out")
    given["log"] = str(Path(given["output"]).with_suffix(".log").resolve())
    return given


@dataclass
class Report:
    """What was found so far; `add` writes it."""

    path: Path
    command: list
    given: dict
    rows: list = field(default_factory=list)
    parts: dict = field(default_factory=dict)  # {name: {"status", "reason", "seconds", "share"}}

    def add(self, part, row, ends=None):
        """Add a row of a part, or how the part ends, and write the file."""
        if row is not None:
            self.rows.append({"part": part, **row})
            print(f"{part}: {row['name']}: {describe(row)}", file=sys.stderr, flush=True)
        if ends is not None:
            self.parts[part] = ends
        machine = next((one for one in self.rows if one["name"] == "machine"), {})
        content = {
            "command": shlex.join(self.command),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "made_by": machine.get("made_by", {}) | ({"commit": commit} if (commit := self.given["commit"]) else {}),
            "given": {key: self.given[key] for key in ("device", "minutes", "parts")},
            "parts": self.parts,
            "failed": self.failed,
            "bottlenecks": explain(self.rows),
            "rows": self.rows,
        }
        save_json(self.path, content)

    @property
    def failed(self):
        """What failed, in words: checks beyond their limit, figures with an error, parts that ended early."""
        rows = [f"{one['part']}: {one['name']}" for one in self.rows if one.get("ok") is False or "error" in one]
        return rows + [f"{name}: {one['reason']}" for name, one in self.parts.items() if one["status"] == "failed"]

    @property
    def has_failed(self):
        return int(bool(self.failed))

    def text(self):
        """Return the table, 80 columns wide, what bounds each network, and what failed."""
        lines = []
        for name, ends in self.parts.items():
            reason = f", {ends['reason']}" if ends["reason"] else ""
            lines.append(_cut(f"{name}: {ends['status']} in {ends['seconds']:.0f} s{reason}"))
            for row in (one for one in self.rows if one["part"] == name):
                lines += table_lines(row["name"], describe(row))
        lines += ["", *(line for text in explain(self.rows) for line in _wrap(text))]
        if self.given["device"] == "cpu":
            lines += ["device=cpu rehearses the command: its speeds say nothing of a GPU"]
        lines += [_cut(f"FAILED {one}") for one in self.failed]
        return "\n".join([*lines, str(self.path)])


def describe(row):
    """Return a row's figure in words."""
    if "error" in row:
        return f"error: {row['error']}"
    return f"left out: {row['left_out']}" if "left_out" in row else row["shown"]


def table_lines(name, figure, width=80, left=30):
    """Return the lines of a table's row: the name, and its figure beside it, or below where one of them is long."""
    first = f"  {name:<{left}}  {figure}"
    if len(first) <= width and len(name) <= left:
        return [first]
    return [_cut(f"  {name}", width), *_wrap(figure, width, " " * 6)]


def _cut(text, width=80):
    return text if len(text) <= width else text[: width - 3] + "..."


def _wrap(text, width=80, indent=""):
    import textwrap

    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent or "  ")


def run_parts(given, report, ends_at):
    """Run the parts one after another until ends_at (time.monotonic); each has what is left, by the weights.

    Raises:
        UserError: there is no such device.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking for a GPU otherwise, here, would spoil it for children
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import benchmarks.gpu_correctness
        import benchmarks.gpu_speed  # noqa: F401  so that each part's process, a fork of this one, begins at once
    except ModuleNotFoundError as error:
        advice = "pip install -r requirements.txt, or carry wheels to it as docs/gpu.md says"
        raise UserError(f"{error.name}: not installed on this machine; {advice}") from None

    method, left = "fork", list(given["parts"])
    while left:
        name, now = left[0], time.monotonic()
        share = (ends_at - now) * PARTS[name].weight / sum(PARTS[one].weight for one in left)
        ends, reason = {"status": "done", "reason": "", "share": round(share, 1)}, None
        limits, has_time = (now + share, min(now + _GRACE * share + 1, ends_at)), ends_at - now > _LEAST
        if not has_time:
            ends |= {"status": "left out", "reason": f"the {given['minutes']} minutes are over"}
        for message in run_part(method, name, given, *limits) if has_time else ():
            if reason := message.get("no_cuda"):
                break
            if "ends" in message:
                ends |= message["ends"]
            else:
                report.add(name, message)
        if reason and method == "fork" and "fork" in reason:
            method = "spawn"  # this process has touched CUDA, which no fork of it can then use
            continue
        if reason:
            raise UserError(f"device=cuda: not on this machine ({reason}); device=cpu rehearses every part")
        report.add(name, None, ends | {"seconds": round(time.monotonic() - now, 1)})
        left.pop(0)


def run_part(method, name, given, ends_at, killed_at):
    """Yield the rows of a part as they come, then {"ends": ...} where it did not end well; none begins after ends_at.

    killed_at: when the process is killed; figures that are not begun then are left out.
    """
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=run_child, args=(name, given, ends_at, sender))
    child.start()
    sender.close()
    waiting, reason = [], None
    try:
        while reason is None:
            if not receiver.poll(max(0, killed_at - time.monotonic())):
                reason = "killed, as it took longer than its share"
                break
            try:
                message = receiver.recv()
            except EOFError:
                child.join()
                reason = f"its process ended with status {child.exitcode}" if child.exitcode else ""
                break
            if "waiting" in message:
                waiting = message["waiting"]
            else:
                waiting = [one for one in waiting if one != message["name"]]
                yield message
    finally:
        _kill(child)
    if reason:
        for number, one in enumerate(waiting):
            yield {"name": one, **({"left_out": "its part ended before"} if number else {"error": reason})}
        yield {"ends": {"status": "failed", "reason": reason}}


def _kill(child):
    """Kill a part's process and those that it started; loader workers are in groups of their own and end alone."""
    if child.is_alive():
        for kill in (lambda: os.killpg(child.pid, signal.SIGKILL), child.kill):
            try:
                kill()
            except (ProcessLookupError, PermissionError):  # it is in our group yet, or has ended
                continue
    child.join()


def run_child(name, given, ends_at, sender):
    """Compute the figures of a part and send them; no figure begins after ends_at."""
    os.setpgrp()
    parent = os.getppid()
    gc.freeze()  # or each collection walks through all that was imported, for half a second
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = os.open(given["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for number in (1, 2):
        os.dup2(log, number)
    import importlib
    import traceback

    from benchmarks.gpu_case import Case, LeftOut, free

    os.chdir(given["folder"])  # where runs and demo data go
    part = PARTS[name]
    try:
        figures = getattr(importlib.import_module(f"benchmarks.{part.module}"), part.function)(Case.of(given, ends_at))
    except Exception as error:
        traceback.print_exc()
        sender.send({"name": name, "error": first_line(error)})
        return
    sender.send({"waiting": [one for one, _ in figures]})
    for one, compute in figures:
        if os.getppid() != parent:  # which was killed: nobody reads this
            os._exit(1)
        began = time.monotonic()
        try:
            if began > ends_at:
                raise LeftOut("no time is left")
            row = compute()
        except LeftOut as reason:
            row = {"left_out": str(reason)}
        except Exception as error:
            traceback.print_exc()
            row = {"error": first_line(error)}
        sys.stdout.flush()
        sender.send({"name": one, "figure_seconds": round(time.monotonic() - began, 2), **row})
        gc.collect()
        free()


def explain(rows):
    """Return a sentence for each network that was trained: what bounds it, and the one setting to change."""
    data = [one["images_per_second"] for one in rows if "images_per_second" in one and not one["words"]]
    return [explain_network(one, max(data, default=None)) for one in rows if "share" in one and "pure" in one]


def explain_network(row, best_loader=None):
    """Return what bounds a row of training, in words.

    Args:
        row: pure, loop and share (median, min, max), loader (images/s), gpu_busy and copy_share (of the time, or None).
        best_loader: images/s that the loader reached with any number of workers; None: not known.
    """
    share, pure, busy = row["share"]["median"], row["pure"]["median"], row["gpu_busy"]
    head = f"{row['model']}: the loop reaches {share:.2f} of the steps alone"
    if share < 0.95 and row["loader"] < 1.1 * pure:
        found = f"the data path bounds it: {row['loader']:.0f} images/s where the network takes {pure:.0f}"
        more = best_loader is not None and best_loader > 1.1 * row["loader"]
        advice = "set train.num_workers as in the fastest row of the data path" if more else row["lighter_data"]
    elif share < 0.95 and (row["copy_share"] or 0) > 0.1:
        found, advice = f"copies to the GPU take {row['copy_share']:.0%} of the time", "lower image_size"
    elif share < 0.95:
        found, advice = "neither loader nor copies explain it: the loop's own work", "set a larger train.batch_size"
    elif busy is not None and busy < 0.85:
        found, advice = f"launches bound it: the GPU works {busy:.0%} of the time", "set train.compile=true"
    else:
        busy = "" if busy is None else f", the GPU works {busy:.0%} of the time"
        advice = "set precision=auto" if row["precision"] == "fp32" and busy else "lower image_size"
        found = f"arithmetic or its memory bounds it{busy}"
    return f"{head}; {found}; to change that, {advice}"


if __name__ == "__main__":
    main(sys.argv[1:])
