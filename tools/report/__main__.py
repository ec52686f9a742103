"""A page for a run: python -m tools.report RUN [RUN ...] [output=FILE.html] [pictures=FOLDER]"""

import sys
from pathlib import Path

from src.errors import UserError, nearest, one_line_errors

USAGE = """usage: python -m tools.report RUN [RUN ...] [output=FILE.html] [pictures=FOLDER]

  python -m tools.report outputs/demo_default
  python -m tools.report outputs/first outputs/second

Writes one page that needs no network: a run's score with its interval, folds,
curves, ROC, calibration, confusion, errors, settings, time, how to repeat it
and what to try next; of several runs, how they differ. Nothing is trained.
train.py and infer.py do it at their end (report=false: not).

  output=FILE.html   left out: RUN/report.html; of several runs
                     outputs/report_<A>_<B>.html. FILE.json beside it holds
                     every number on the page
  pictures=FOLDER    each figure as a PNG, and the worst images
  images=false       without images and saliency, which take a few seconds
"""
_KEYS = ("output", "pictures", "images")


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        runs, options = read_words(words)
        from tools.report.command import write  # here, since matplotlib and pandas take a second and a typo should not

        print(write(runs, options.get("output"), options.get("pictures"), options.get("images") != "false"))


def read_words(words):
    """Return (the folders of the runs, {option: value})."""
    runs, options = [word.rstrip("/") or "/" for word in words if "=" not in word], {}
    for word in (word for word in words if "=" in word):
        key, _, value = word.partition("=")
        if key not in _KEYS:
            if Path(word).is_dir():  # a folder whose name holds =
                runs.append(word)
                continue
            raise UserError(f"command line: {word} is not known{nearest(key, _KEYS)}; write RUN output=FILE.html")
        if not value:
            raise UserError(f"command line: {word} names nothing; write for example output=report.html")
        options[key] = value
    if options.get("images", "true") not in ("true", "false"):
        raise UserError(f"command line: images={options['images']}: neither true nor false; leave it out")
    if not runs:
        raise UserError("command line: no run is named; write for example outputs/demo_default")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UserError("command line: a run is named twice; name each once")
    for run in runs:
        if not Path(run).is_dir():
            raise UserError(f"{run}: no such folder; name the folder of a run, for example outputs/demo_default")
    if "output" in options and not options["output"].endswith(".html"):
        raise UserError(f"command line: output={options['output']} is no page; write output=FILE.html")
    return runs, options


if __name__ == "__main__":
    main(sys.argv[1:])
