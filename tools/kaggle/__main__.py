"""A competition's files from Kaggle, and a run's submission to it: python -m tools.kaggle download|submit|scores"""

import math
import sys

from src.config.settings import seconds_of
from src.errors import UserError, listing, nearest, one_line_errors

USAGE = """usage: python -m tools.kaggle download NAME [data_dir=data]
       python -m tools.kaggle submit RUN [-m MESSAGE] [key=value ...]
       python -m tools.kaggle scores [output_dir=outputs]

  python -m tools.kaggle download aerial-cactus-identification
  python -m tools.kaggle submit outputs/a -m "five folds, hflip"

By the official package (pip install kaggle), with its key. NAME is the last
part of the competition's URL, or the URL.

download  unzips its files into data/NAME and runs tools.adopt and tools.doctor
          on them. The same command continues what was broken off, and does
          nothing that is done. Zips within the zip stay as they are.
submit    checks RUN's submission.csv as infer.py or tools.blend wrote it, sends
          it, waits until it is scored and enters the scores with
          tools.leaderboard. A file is sent once: submitted.json of its run has
          its SHA-256. After Ctrl-C the same command goes on waiting.
  competition=NAME  Kaggle's name for it, where the competition file has another
  wait=30m          how long to wait; 0s: not at all (default: until scored)
  again=true        sends a file that was sent before
  competition.root= where the competition's files are now
scores    asks for the scores that are missing of all runs: private ones, once
          the competition has ended
"""
_WORDS = {
    "download": ("data_dir",),
    "submit": ("message", "competition", "wait", "again"),
    "scores": ("output_dir",),
}


def main(words):
    """Run the command line `words`; return the exit status."""
    with one_line_errors():
        if not words or {"--help", "-h"} & set(words):
            print(USAGE)
            return 0
        command, *rest = words
        if command not in _WORDS:
            found = f"{command} is no command; write {listing(_WORDS)}"
            raise UserError(f"command line: {found}{nearest(command, _WORDS)}")
        named, options, changes = _read_words(command, rest)
        if len(named) != (command != "scores"):
            wanted = {"download": "one competition", "submit": "one run", "scores": "none"}[command]
            raise UserError(f"command line: {listing(named) or 'no name'} given, {command} takes {wanted}; see --help")
        if command == "download":
            from tools.kaggle.download import download

            return download(named[0], options.get("data_dir", "data"))
        from tools.kaggle.submit import enter_missing, submit

        if command == "scores":
            enter_missing(options.get("output_dir", "outputs"))
            return 0
        seconds = seconds_of(options.get("wait"))
        if seconds is not None and math.isnan(seconds):
            raise UserError(f"command line: wait={options['wait']}: no time; write for example 0s, 90s, 30m or 2h")
        if (again := options.get("again", "false")) not in ("true", "false"):
            raise UserError(f"command line: again={again} is neither again=true nor again=false")
        submit(named[0], options.get("message"), options.get("competition"), seconds, again == "true", changes)
        return 0


def _read_words(command, words):
    """Return (words without a key, {key: value} of the command's own, words that change the competition's settings)."""
    named, options, changes, left = [], {}, [], list(words)
    while left:
        word = left.pop(0)
        if command == "submit" and word in ("-m", "--message"):
            if not left:
                raise UserError(f"command line: {word} has no message; write {word} 'what is new in it'")
            options["message"] = left.pop(0)
            continue
        key, sign, value = word.partition("=")
        if not sign:
            named.append(word)
        elif key in _WORDS[command]:
            options[key] = value
        elif command == "submit" and key.startswith("competition."):
            changes.append(word)
        else:
            known = _WORDS[command]
            raise UserError(f"command line: {key} is not known; {command} takes {listing(known)}{nearest(key, known)}")
    return named, options, changes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
