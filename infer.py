"""python infer.py [run=outputs/NAME]: predict the test images with all folds of a run and write submission.csv."""

# ruff: noqa: E402
import os
import sys
import time

BEGAN = time.monotonic()  # infer.time_budget holds the imports, too

from src.checkpointing.run_folder import load_run
from src.config.help import help_asked
from src.errors import one_line_errors

USAGE = """usage: python infer.py [run=outputs/NAME] [key=value ...]

  run=FOLDER               the run to use; left out: the newest one
  device= threads= precision= unreadable= train.num_workers= competition.root=
                           where and how it runs now; all else is the run's own
"""


def main(words, began=None):
    """Run the command line `words`; began: when infer.time_budget began, None: with `infer_run`."""
    with one_line_errors(words):
        if (text := help_asked(words, ("infer",))) is not None:
            print(USAGE + text)
            return
        if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ["RANK"] != "0":  # torchrun's first prints for all
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        run_folder, config = load_run(words)
        from src.inference.predict import infer_run  # here, since torch takes seconds and a typo should not

        infer_run(config, run_folder, began)


if __name__ == "__main__":
    main(sys.argv[1:], BEGAN)
