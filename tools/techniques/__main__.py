"""The command python -m tools.techniques: trains the study and writes its table."""

import sys

from src.errors import one_line_errors

USAGE = """usage: python -m tools.techniques [competition=NAME] [key=value ...]

Trains a base run, then the base with one technique of the catalogue at a time,
on the same folds, and writes a table of the differences. The same command again
resumes where it stopped; several commands may share the seeds between them.

  seeds=42,43,44     of folds, first weights and sampling; each trains all
  only=NAME,...      areas or techniques; the base is trained in any case
  output=FOLDER      of the runs, log.txt and techniques.csv, .md and .json;
                     outputs/techniques_<competition> if left out
  write=FILE.md      also writes the table into this file, between its lines
                     <!-- techniques:NAME --> and <!-- /techniques:NAME -->
  key=value          settings of the base, as for train.py
"""


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        from tools.techniques.runs import run_study  # here, as help does not wait for these imports
        from tools.techniques.study import read_words

        study = read_words(words)
        num_crashed = run_study(study)
        print((study.output / "techniques.md").read_text(encoding="utf-8"))
    if num_crashed:
        print(f"error: {num_crashed} techniques crashed; see {study.output / 'log.txt'}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
