"""What each technique of the catalogue changes: the base run, and the base with that one change, on the same folds.

The idea to know: every training is an ordinary run folder, and the table is read from their scores.json alone. The same
command goes on where it was stopped, and several commands may share the seeds between them.
"""

import atexit
import contextlib
import dataclasses
import functools
import gc
import math
import os
import platform
import re
import shlex
import sys
import time
import traceback
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.catalogue import CATALOGUE, Technique
from benchmarks.report import describe_commit
from src.checkpointing.run_folder import describe_changes, differing_settings
from src.config.load import load_config, load_saved_config
from src.config.settings import value_of
from src.errors import UserError, listing, nearest, one_line_errors
from src.evaluation.intervals import paired_interval
from src.files import load_json, save_table, save_text

USAGE = """usage: python -m benchmarks.techniques [competition=NAME] [key=value ...]

  seeds=42,43,44        of folds, first weights and order; each technique is trained on all of them
  output=DIR            folder of the runs, the log and techniques.csv; outputs/techniques_<competition> if left out
  only=NAME,...         areas or techniques of the catalogue; the base is trained in any case
  write=FILE.md         puts the table between the file's <!-- techniques:NAME --> marks
  key=value             settings of the base, as for train.py

The same command again goes on where it stopped.
"""

# What makes the embedded competition hard and quick enough for a study: BatchNorm, few images.
BASES = {
    "demo": (
        "model.kwargs={}", "optimizer.lr=0.01", "train.max_images=120", "train.batch_size=16", "train.epochs=6",
        "train.num_workers=0",
    ),
}  # fmt: skip
BASE = Technique("base", "", "The base, with nothing changed.", "")
COLUMNS = "| technique | setting | what it does | source | {metric} | difference [95 % interval] | seconds |"
_load = functools.cache(load_config)  # of tuples; the table asks for the same ones again after each technique
_OWN_WORDS = ("name", "seed", "output_dir", "overwrite")  # the study decides them


@dataclasses.dataclass(frozen=True)
class Study:
    """What the command line asks for."""

    competition: str
    base_words: tuple
    seeds: tuple
    output: Path
    techniques: tuple  # the base first, then what is compared with it
    write: Path | None

    def words_of(self, technique):
        """Return the words that turn the base into the technique, times replaced by values.

        Raises:
            UserError: a word cannot be read.
        """
        base = _load(self.base_words)
        words = [word for one in lineage(technique) for word in one.words.split("  ") if word]
        return tuple(resolve_word(word, base) for word in words)

    def config_of(self, technique, seed):
        """Return the checked Config of one run.

        Raises:
            UserError: the settings refuse the technique.
        """
        own = (f"name={technique.slug}_seed{seed}", f"seed={seed}", f"output_dir={self.output}")
        return _load((*self.base_words, *self.words_of(technique), *own))

    def reference_of(self, technique):
        """Return what a technique is compared with; an entry that changes nothing here is the base."""
        if not technique.against:
            return BASE
        parent, seed = find(technique.against), self.seeds[0]
        return parent if differs(self.config_of(parent, seed), self.config_of(BASE, seed)) else BASE


def read_words(words):
    """Return the Study of a command line.

    Raises:
        UserError: a word is wrong.
    """
    if bare := next((word for word in words if "=" not in word), None):
        raise UserError(f"command line: {bare!r} is not key=value; see python -m benchmarks.techniques --help")
    given = dict(word.split("=", 1) for word in words)
    if own := next((key for key in given if key in _OWN_WORDS), None):
        raise UserError(f"{own}={given[own]}: the study sets it for each run; write seeds=42,43 and output=DIR")
    name = given.get("competition", "demo")
    competition = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    seeds, only = given.pop("seeds", "42,43,44"), given.pop("only", "")
    output, write = given.pop("output", f"outputs/techniques_{competition}"), given.pop("write", None)
    try:
        seeds = tuple(dict.fromkeys(int(seed) for seed in seeds.strip("[]").split(",")))
    except ValueError:
        raise UserError(f"seeds={seeds}: not whole numbers; write for example seeds=42,43,44") from None
    if write is not None and not write.endswith(".md"):
        raise UserError(f"write={write}: not a Markdown file; write for example write=docs/techniques.md")
    base = dict(word.split("=", 1) for word in ("tracking=none", *BASES.get(competition, ())))
    base_words = tuple(f"{key}={value}" for key, value in (base | given).items())
    load_config(base_words)
    techniques = choose([one for one in only.strip("[]").split(",") if one])
    return Study(competition, base_words, seeds, Path(output), techniques, Path(write) if write else None)


def choose(names):
    """Return the base and the named areas or techniques, each after the one it is compared with; []: all.

    Raises:
        UserError: the catalogue has no such area or technique.
    """
    chosen = [BASE]
    slugs = {_slug(name): name for name in names}
    known = {one.slug for one in CATALOGUE} | {_slug(one.area) for one in CATALOGUE}
    for slug, name in slugs.items():
        if slug not in known:
            areas = listing(dict.fromkeys(one.area for one in CATALOGUE), 20)
            raise UserError(f"only={name}: no such area or technique{nearest(slug, known)}; the areas are {areas}")
    for one in CATALOGUE:
        if not slugs or {one.slug, _slug(one.area)} & set(slugs):
            chosen += lineage(one)
    return tuple(dict.fromkeys(chosen))


def find(name):
    """Return the catalogue's technique of this name."""
    return next(one for one in CATALOGUE if one.name == name)


def lineage(technique):
    """Return the techniques that this one builds on, and itself last."""
    return [*(lineage(find(technique.against)) if technique.against else ()), technique]


def _slug(name):
    return Technique(name, "", "", "").slug


def resolve_word(word, base):
    """Return the word with a value such as x3 replaced by three times the base's; whole numbers stay whole."""
    key, _, value = word.partition("=")
    if not re.fullmatch(r"x[0-9.]+", value):
        return word
    now, factor = value_of(base, key), float(value[1:])
    if isinstance(now, tuple):
        return f"{key}=[{','.join(str(round(one * factor)) for one in now)}]"
    return f"{key}={max(1, round(now * factor)) if isinstance(now, int) else format(now * factor, '.3g')}"


def run_study(study):
    """Train what is not done, technique after technique, and write the table after each; return how many crashed."""
    reasons, clock, crashed, written = {}, _Clock(study), 0, 0
    atexit.register(gc.unfreeze)  # see _train_if_needed; libraries complain at the end of what they cannot clear
    for technique in study.techniques:
        for seed in study.seeds:
            reason = reasons.get(technique.against, "")
            if not reason or reason.startswith("already"):
                reason = _train_if_needed(study, technique, seed, clock)
            if reason:
                reasons[technique.name] = reason
                clock.leave_out(technique, reason)
                if technique is BASE:
                    raise UserError(f"the base: {reason}; its run is {study.output / 'log.txt'}")
                break
        crashed += reasons.get(technique.name, "").startswith("crashed")
        if len(clock.spent) > written or technique is study.techniques[-1]:  # a table of all takes a second
            written = len(clock.spent)
            _write(study, reasons)
    return crashed


def _train_if_needed(study, technique, seed, clock):
    """Train one run unless it is done; return why it cannot be, or None."""
    try:
        config = study.config_of(technique, seed)
    except UserError as error:
        return f"not on this competition: {error}"
    reference = None if technique is BASE else study.reference_of(technique)
    if reference and not differs(config, study.config_of(reference, seed)):
        return f"already in {'the base' if reference is BASE else reference.name}"
    is_new = not is_finished(config)
    began = time.perf_counter()
    if is_new:
        from src.training.run import train_run  # here, since torch takes seconds and a typo should not

        if not gc.get_freeze_count():  # libraries outlive each fold, after which all that is not frozen is looked at
            gc.collect()
            gc.freeze()
        study.output.mkdir(parents=True, exist_ok=True)
        try:
            with open(study.output / "log.txt", "a", encoding="utf-8") as log:
                with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                    print(
                        f"\n== {technique.name}, seed {seed}: python train.py {shlex.join(study.words_of(technique))}"
                    )
                    train_run(config)
        except UserError as error:
            is_result = re.search(r"loss is|predictions are nan", str(error))
            return f"diverged: {error}" if is_result else f"not on this competition: {error}"
        except Exception as error:  # one technique must not cost the others their hour; the study ends with status 1
            with open(study.output / "log.txt", "a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            return f"crashed: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    clock.tell(technique, seed, config, time.perf_counter() - began if is_new else None)
    return None


def differs(config, other):
    """Whether two configs train differently, apart from their names and from defaults that come to the same."""
    keys = differing_settings(_spell_out(config), _spell_out(other))
    return bool([key for key in keys if key not in ("name", "recipe")])


def _spell_out(config):
    """The config with what null and auto stand for, where the catalogue has a name for it."""
    model = dataclasses.replace(config.model, freeze_batchnorm=config.model.keeps_batchnorm)
    loss = dataclasses.replace(config.loss, name=config.loss.name_for(config.competition.task))
    return dataclasses.replace(config, model=model, loss=loss)


def is_finished(config):
    """Whether the config's run is there, whole and scored.

    Raises:
        UserError: it is there with other settings.
    """
    folder = config.run_folder
    if not (folder / "scores.json").is_file():
        return False
    saved = load_saved_config(folder)
    if changes := describe_changes(saved, config):
        raise UserError(f"{folder}: trained with other settings: {changes}; choose another output=DIR")
    return saved.fold == config.fold


class _Clock:
    """One line of progress for each run, with the time that is left."""

    def __init__(self, study):
        self._num_seeds = len(study.seeds)
        self._total = len(study.techniques) * self._num_seeds
        self._done, self.spent = 0, []

    def tell(self, technique, seed, config, seconds):
        """Count a run; seconds None: it was there before."""
        self._done += 1
        if seconds is None:
            return
        self.spent.append(seconds)
        score = load_json(config.run_folder / "scores.json")["mean"]
        minutes = np.mean(self.spent[-30:]) * (self._total - self._done) / 60
        where = f"{self._done}/{self._total} {technique.name} seed {seed}"
        print(
            f"{where}: {_number(score)} ({seconds:.1f} s), about {math.ceil(minutes)} min left",
            file=sys.stderr,
            flush=True,
        )

    def leave_out(self, technique, reason):
        """Count all of a technique's seeds."""
        self._done = -(-(self._done + 1) // self._num_seeds) * self._num_seeds
        print(f"{self._done}/{self._total} {technique.name}: {reason}", file=sys.stderr, flush=True)


def read_scores(study, technique):
    """Return {(seed, fold): score} and the mean seconds of a run; None where a seed is not finished."""
    scores, seconds = {}, []
    for seed in study.seeds:
        path = study.output / f"{technique.slug}_seed{seed}" / "scores.json"
        if not path.is_file():
            return None
        content = load_json(path)
        scores |= {(seed, fold): score for fold, score in content["folds"].items()}
        seconds.append(content["seconds"])
    return scores, float(np.mean(seconds))


def compute_rows(study, reasons):
    """Return a pandas table: a row for each technique that is finished on all seeds."""
    rows, num_folds = [], _load(study.base_words).num_folds
    for technique in study.techniques:
        found = None if technique.name in reasons else read_scores(study, technique)
        reference = found and read_scores(study, study.reference_of(technique))
        if not reference:  # another command may be about to finish it
            continue
        scores, seconds = found
        values = np.array(list(scores.values()))
        row = {
            "area": technique.area,
            "technique": technique.name,
            "setting": _setting(study, technique),
            "against": study.reference_of(technique).name,
            "score": values.mean(),
            "seconds": round(seconds, 1),
            "seeds": len(study.seeds),
            "scores": len(values),
        }
        if technique is not BASE:
            differences = [score - reference[0][key] for key, score in scores.items()]
            mean, low, high = float(np.mean(differences)), np.nan, np.nan
            if len(differences) > 1:
                mean, low, high = paired_interval(differences, num_folds)
            row |= {"difference": mean, "low": low, "high": high, "is_beyond_chance": low > 0 or high < 0}
        rows.append(row)
    return pd.DataFrame(rows)


def _setting(study, technique):
    parent = set(study.words_of(find(technique.against))) if technique.against else set()
    return _quote(word for word in study.words_of(technique) if word not in parent)


def _write(study, reasons):
    """Write techniques.csv, techniques.md and, where it was asked for, the part of a document between its marks."""
    rows = compute_rows(study, reasons)
    save_table(study.output / "techniques.csv", rows)
    text = table_text(study, rows, reasons)
    save_text(study.output / "techniques.md", text)
    if study.write is not None:
        begin, end = f"<!-- techniques:{study.competition} -->", f"<!-- /techniques:{study.competition} -->"
        old = study.write.read_text(encoding="utf-8") if study.write.is_file() else ""
        if begin not in old or end not in old:
            old = f"{old.rstrip()}\n\n{begin}\n{end}\n".lstrip()
        before, after = old[: old.index(begin)], old[old.index(end) + len(end) :]
        save_text(study.write, f"{before}{begin}\n{text}{end}{after}")


def table_text(study, rows, reasons):
    """Return the Markdown: how it was made, a table for each area, and what is not in it."""
    metric = _load(study.base_words).competition.metric
    base, num_compared = rows.iloc[0], len(rows) - 1
    lines = [
        _conditions(study),
        "",
        f"The base has {metric} {_number(base['score'])} and takes {base['seconds']:.1f} s a run. A difference is "
        "paired: same seed, same fold, same images; in brackets its 95 % interval, corrected for folds that share "
        f"images. **Bold**: the interval leaves out 0; of {num_compared} comparisons about "
        f"{math.ceil(num_compared / 20)} would be bold by chance alone.",
    ]
    by_name = {one.name: one for one in study.techniques}
    for area, part in rows[rows["area"] != ""].groupby("area", sort=False):
        lines += ["", f"**{area}**", "", COLUMNS.format(metric=metric), "|---" * 7 + "|"]
        lines += [_table_line(row, by_name[row["technique"]], study) for _, row in part.iterrows()]
    return "\n".join([*lines, "", *_notes(study, rows, reasons), ""])


def _conditions(study):
    """Say how the numbers were made, so that another can make them again."""
    import torch

    own = ("tracking=none", *BASES.get(study.competition, ()))
    # local paths are no one else's
    words = ["model.weights=WEIGHTS" if word.startswith("model.weights=") else word for word in study.base_words]
    given = [word for word in words if word not in own]
    command = _quote([*given, f"seeds={','.join(map(str, study.seeds))}"])
    return (
        f"`python -m benchmarks.techniques {command}`, {date.today().isoformat()}, commit {describe_commit()}, torch "
        f"{torch.__version__}, {_hardware(torch, _load(study.base_words))}. Seeds {listing(study.seeds)}, "
        f"{_count_images(study)}. The base: `{_quote(words[1:])}`."
    )


def _quote(words):
    """The words as they are typed in a shell, but that braces and brackets stay plain where they stand alone."""
    return " ".join(shlex.quote(word) if " " in word else word for word in words)


def _count_images(study):
    """How many folds and images a run has, read from the base's first run."""
    config = load_saved_config(study.output / f"{BASE.slug}_seed{study.seeds[0]}")
    folds = pd.read_csv(config.run_folder / "folds.csv")["fold"]
    trained = load_json(config.run_folder / "scores.json")["folds"]
    first = int(next(iter(trained)))
    num_training = int((folds != first).sum())
    if config.train.max_images is not None:
        num_training = min(num_training, config.train.max_images)
    return (
        f"{len(trained)} of {config.num_folds} folds of {len(folds)} images, in each about {num_training} to train and "
        f"{int((folds == first).sum())} to validate"
    )


def _hardware(torch, config):
    device = f"{os.cpu_count()} cores, {platform.machine()}"
    if config.device != "cpu" and torch.cuda.is_available():
        return f"{device}, {torch.cuda.get_device_name()}"
    return f"{device}, CPU only"


def _table_line(row, technique, study):
    mark = " †" if technique.is_tuned and study.competition == "demo" else ""
    name = row["technique"] + mark
    setting = f"`{row['setting']}`" + (f", against {row['against']}" if row["against"] != BASE.name else "")
    difference = _signed(row["difference"])
    if not np.isnan(row["low"]):
        difference += f" [{_signed(row['low'])}, {_signed(row['high'])}]"
    if row["is_beyond_chance"]:
        difference = f"**{difference}**"
    cells = (
        name,
        setting,
        technique.text,
        technique.source,
        _number(row["score"]),
        difference,
        f"{row['seconds']:.1f}",
    )
    return "| " + " | ".join(cells) + " |"


def _notes(study, rows, reasons):
    """Say what stands behind the marks, and what is missing from the table and why."""
    done, lines = set(rows["technique"]), []
    if study.competition == "demo" and any(one.is_tuned for one in study.techniques if one.name in done):
        lines += [
            "† Its learning rate was chosen among three to five values on the folds of seed 41, as the base's was.",
            "",
        ]
    left_out = {}
    for one in study.techniques:
        if one.name in reasons:
            left_out.setdefault(_shorten(reasons[one.name]), []).append(one.name)
    lines += [f"- {', '.join(names)}: {reason}." for reason, names in left_out.items()]
    if waiting := [one.name for one in study.techniques if one.name not in done and one.name not in reasons]:
        lines += ["", f"Not trained yet: {listing(waiting, 200)}."]
    return lines


def _shorten(reason):
    """The reason without what to do about it, for which the table is no place."""
    return reason.split(";")[0].replace("|", "/")


def _number(score):
    return f"{score:.5f}".removeprefix("0")


def _signed(difference):
    return f"{difference:+.5f}".replace("+0.", "+.").replace("-0.", "-.").replace("-", "−")  # noqa: RUF001  a minus sign


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    with one_line_errors():
        study = read_words(words)
        crashed = run_study(study)
        print((study.output / "techniques.md").read_text(encoding="utf-8"))
    if crashed:
        print(f"error: {crashed} techniques crashed; {study.output / 'log.txt'} says where", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
