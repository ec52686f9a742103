"""python train.py key=value ...: train a competition's folds and print the out-of-fold score."""

import os
import sys

from src.config.help import help_asked
from src.config.load import load_config, split_seeds
from src.errors import one_line_errors

USAGE = """usage: python train.py [key=value ...]

  python train.py                              the embedded competition, 5 folds
  python train.py fold=0                       one fold
  python train.py competition=NAME recipe=finetune train.epochs=5
  python train.py seed=[1,2,3]                 runs <name>_seed1, _seed2, _seed3
  python train.py fold=all                     after the folds: on every row
  python -m tools.adopt FOLDER                 make a competition of a folder

  python train.py --debug ...                  with the traceback of an error

The same command again resumes where it stopped. Settings, with defaults:
"""


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if (text := help_asked(words)) is not None:
            print(USAGE + text)
            return
        if os.environ.get("WANDB_SWEEP_ID") and not any(word.startswith("name=") for word in words):
            words.append(f"name=sweep_{os.environ['WANDB_RUN_ID']}")  # each trial of wandb's agent is a run of its own
        commands = split_seeds(words)
        configs = [load_config(one) for one in commands]
        if os.environ.get("RANK", "0") == "0":
            folders, name = ", ".join(str(one.run_folder) for one in configs), configs[0].competition.name
            print(f"{folders}: loading libraries, then the tables of {name}", flush=True)
        from src.training.tracking import import_early  # here, since these take seconds and a typo should not

        import_early(configs[0].tracking)
        from src.training.seeds import train_runs

        train_runs(configs, commands)


if __name__ == "__main__":
    main(sys.argv[1:])
