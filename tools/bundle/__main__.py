"""A folder for Kaggle from trained runs: python -m tools.bundle RUN [RUN ...] output=FOLDER [key=value ...]

Reads the runs; nothing is trained. What it writes infers without internet.
"""

import re
import sys

from src.errors import UserError, listing, nearest, one_line_errors

USAGE = """usage: python -m tools.bundle RUN [RUN ...] output=FOLDER [key=value ...]

  python -m tools.bundle outputs/cactus_finetune output=bundle
  python -m tools.bundle outputs/a outputs/b output=bundle weights=fp16
  kaggle datasets create -p bundle -r zip && kaggle kernels push -p bundle

Writes FOLDER, to be uploaded as a Kaggle dataset: the code, what infer.py needs
of the runs, wheels of what Kaggle's image lacks, infer.sh, and a notebook that
runs it with the internet off. infer.sh [COMPETITION_FOLDER] [infer.tta=hflip]
writes ./submission.csv: infer.py's, byte for byte; without any test image, as
before a hidden test set is scored, the sample as it is.

Of several runs it is their blend, with weights that tools.blend decides now; a
blend's folder as the only RUN brings its runs and its weights.

  infer.tta=... infer.calibration=... and so on   infer.py's words, kept for all
                     inferences of the bundle; threads= and precision=, too
  weights=fp16       half the size: weights in 16 bits, read as fp32; says how
                     much predictions differ. weights=as_trained (default)
  wheels=auto        what the image lacks, by pip; none; FOLDER: those in it
  python=3.12        the image's Python, of which the wheels are
  competition=SLUG   Kaggle's name of the competition; left out: the run's
  user=NAME          on Kaggle; left out: that of the kaggle program
  title=TITLE        of the dataset, 6 to 50 characters
  gpu=true           whether the notebook gets a GPU
  limit=200GB        of the dataset; Kaggle's private datasets share a quota
  overwrite=true     replaces an earlier bundle
"""
_KNOWN = {
    "output": None, "weights": "as_trained", "wheels": "auto", "python": None, "competition": None, "user": None,
    "title": None, "gpu": "true", "limit": "200GB", "overwrite": "false",
}  # fmt: skip
_OF_INFER = ("threads", "precision", "device", "unreadable", "train.num_workers", "competition.root")


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        runs = list(dict.fromkeys(word.rstrip("/") or "/" for word in words if "=" not in word))
        options, kept = read_options([word for word in words if "=" in word])
        if not runs:
            raise UserError("command line: RUN is missing; write RUN output=FOLDER, for example outputs/demo_default")
        if not options["output"]:
            raise UserError("command line: output= is missing; write output=FOLDER, the folder to upload")
        from tools.bundle.command import write_bundle  # here, as help and a typo do not wait for what computes

        write_bundle(runs, options, kept)


def read_options(words):
    """Return ({key: value} of this tool's words, checked and typed; the words that are infer.py's)."""
    options, kept = dict(_KNOWN), []
    for word in words:
        key, _, value = word.partition("=")
        if key.startswith("infer.") or key in _OF_INFER:
            kept.append(word)
        elif key in _KNOWN:
            options[key] = value
        else:
            known = [*_KNOWN, *_OF_INFER]
            raise UserError(
                f"command line: {word} is not known{nearest(key, known)}; it takes infer.* and {listing(known, 20)}"
            )
    if wrong := next((word for word in kept if word.startswith("infer.output=")), None):
        raise UserError(f"command line: {wrong}: a bundle writes ./submission.csv; leave it out")
    choices = {"weights": ("as_trained", "fp16"), "gpu": ("true", "false"), "overwrite": ("true", "false")}
    for key, known in choices.items():
        if options[key] not in known:
            raise UserError(f"command line: {key}={options[key]} is not one of {listing(known)}; choose one of them")
    options |= {key: options[key] == "true" for key in ("gpu", "overwrite")}
    options["limit"] = read_size(options["limit"])
    return options, kept


def read_size(text):
    """Return the bytes of 200GB, 500MB or 20KB."""
    if (found := re.fullmatch(r"(\d*\.?\d+)([GMK])B", text, re.IGNORECASE)) is None:
        raise UserError(f"command line: limit={text} is no size; write for example limit=20GB")
    return float(found[1]) * {"G": 1e9, "M": 1e6, "K": 1e3}[found[2].upper()]


if __name__ == "__main__":
    main(sys.argv[1:])
