"""Look before training: python -m tools.doctor [key=value ...]

It reads the competition as train.py would, looks at every image once, prints findings with what to do, and writes them
with pictures into doctor.html.
"""

import sys
from pathlib import Path

from src.config.help import help_text
from src.config.load import load_config, load_saved_config
from src.errors import one_line_errors

USAGE = """usage: python -m tools.doctor [key=value ...]

  python -m tools.doctor                         the embedded competition
  python -m tools.doctor competition=NAME recipe=finetune
  python -m tools.doctor competition=NAME folds=my_folds.csv
  python -m tools.doctor run=outputs/NAME        what augmentation costs that run

It takes the words of train.py, trains nothing, and writes its findings into
outputs/doctor/<competition>/doctor.html. An error makes a score wrong or stops
the training; a warning may do so; a note is worth knowing. The exit status is 1
where there is an error, else 0. All settings, with defaults:
"""


def main(words):
    """Run the command line `words`; return the exit status."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE + help_text())
            return 0
        runs = [word.removeprefix("run=") for word in words if word.startswith("run=")]
        words = [word for word in words if not word.startswith("run=")]
        config = load_saved_config(runs[-1], words) if runs else load_config(words)
        from tools.doctor.examination import examine  # here, since torch takes seconds and a typo should not

        findings = examine(config, Path(runs[-1]) if runs else None)
        return int(any(finding.severity == "error" for finding in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
