"""Check a competition before training: python -m tools.doctor [key=value ...] [output=FOLDER]

It reads the competition as train.py does, decodes every image once, prints findings with what to do, and writes them
with images into doctor.html.
"""

import sys
from pathlib import Path

from src.config.help import help_asked
from src.config.load import load_config, load_saved_config
from src.errors import one_line_errors

USAGE = """usage: python -m tools.doctor [key=value ...] [output=FOLDER]

  python -m tools.doctor                         the embedded competition
  python -m tools.doctor competition=NAME recipe=finetune
  python -m tools.doctor competition=NAME folds=my_folds.csv
  python -m tools.doctor run=outputs/NAME        what augmentation costs that run

It takes the words of train.py, trains nothing, and writes its findings into
doctor.html and doctor.json of outputs/doctor/<competition>, or of output=. An
error makes a score wrong or stops the training; a warning may do so; a note is
worth knowing. The exit status is 1 where there is an error, else 0. The
settings that people change, with defaults:
"""


def main(words):
    """Run the command line `words`; return the exit status."""
    with one_line_errors():
        if (text := help_asked(words)) is not None:
            print(USAGE + text)
            return 0
        own = dict(word.split("=", 1) for word in words if word.startswith(("run=", "output=")))
        words = [word for word in words if not word.startswith(("run=", "output="))]
        run, output = own.get("run"), own.get("output")
        config = load_config(words) if run is None else load_saved_config(run, words)
        from tools.doctor.checks import run_checks  # here, since torch takes seconds and a typo should not

        folder = Path(output or f"{config.output_dir}/doctor/{config.competition.name}")
        findings = run_checks(config, folder, None if run is None else Path(run), words)
        return int(any(finding.severity == "error" for finding in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
