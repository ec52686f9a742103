"""All runs in one table: python -m tools.leaderboard [competition=NAME] [sort=WHAT] [output=FILE.csv]

Reads the small files of run folders; no prediction, image or network is loaded.
"""

import csv
import functools
import io
import json
import math
import shutil
import statistics
import sys
import textwrap
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from src.errors import UserError, first_line, listing, nearest, one_line_errors

_KEYS = ("output_dir", "competition", "sort", "output", "public", "private")
_SORTS = ("score", "test", "public", "private", "seconds", "time", "name")
USAGE = """usage: python -m tools.leaderboard [key=value ...]
       python -m tools.leaderboard RUN public=0.9731 [private=0.9702]

  python -m tools.leaderboard competition=demo sort=public

Lists the runs in a folder, blends and soups too, by competition and metric, the
best first: out-of-fold score with its 95 % interval, folds that are finished of
all (+all: and the network of fold=all), seconds of training, test score (of
infer.py, where the labels are known), and the settings by which a run differs
from its recipe as it is now; where that cannot be read any more, from the
oldest run of the recipe. Runs that differ in the seed alone are one row: their
mean, and the standard deviation.

  output_dir=outputs   the folder of the runs
  competition=NAME     these alone
  sort=score           or test, public, private, seconds, time (newest first) or
                       name
  output=FILE.csv      also writes the table, a row for each run
  RUN public= private= what the host's leaderboard said of a run's submission,
                       kept in its submitted.json; null takes it back
"""


@dataclass
class Entry:
    """What is known of a run, from its own small files."""

    path: Path
    settings: dict = field(default_factory=dict)  # {dotted key: value}; {}: config.yaml cannot be read
    problems: list = field(default_factory=list)
    made: float = 0.0  # when its config.yaml was written
    scores: dict = field(default_factory=dict)  # score, low, high, mean, seconds, test, public, private: float or None
    folds_done: int | None = None  # None: of a blend
    num_folds: int | None = None
    has_all: bool = False  # fold=all is finished
    made_of: str = ""  # what a blend or a soup is of
    differs: list = field(default_factory=list)  # key=value words, from the recipe

    @property
    def block(self):
        """What the runs of one table have in common."""
        kwargs = self.settings.get("competition.metric_kwargs")
        metric = f"{self.settings.get('competition.metric')}{f' {kwargs}' if kwargs else ''}"
        return str(self.settings.get("competition.name")), metric


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        runs, chosen = [word for word in words if "=" not in word], {}
        for key, _, value in (word.partition("=") for word in words if "=" in word):
            if key not in _KEYS:
                raise UserError(f"command line: {key} is not known; it takes {listing(_KEYS)}{nearest(key, _KEYS)}")
            chosen[key] = value
        sort = chosen.get("sort", "score")
        if sort not in _SORTS:
            raise UserError(f"command line: sort={sort}: not one of {listing(_SORTS)}{nearest(sort, _SORTS)}")
        output_dir = chosen.get("output_dir", "outputs")
        if runs or {"public", "private"} & set(chosen):
            output_dir = enter(runs, {key: chosen[key] for key in ("public", "private") if key in chosen})
        entries = load_entries(output_dir)
        names = sorted({entry.block[0] for entry in entries if entry.settings})
        if (wanted := chosen.get("competition")) is not None:
            if wanted not in names:
                raise UserError(f"competition={wanted}: no run in {output_dir} (there are {listing(names)})")
            entries = [entry for entry in entries if entry.block[0] == wanted]
        compare_with_recipes(entries)
        print(describe(entries, sort, max(80, shutil.get_terminal_size().columns)))
        if "output" in chosen:
            save_csv(chosen["output"], entries)


def enter(runs, given):
    """Write the host's scores of one run, {public: text, private: text}, into its folder; return the folder of runs."""
    from src.checkpointing.run_folder import RunFolder
    from src.files import save_json

    if len(runs) != 1 or not given:
        found = f"{len(runs)} runs and {len(given)} scores"
        raise UserError(f"command line: {found}; write one run and its score: outputs/NAME public=0.9731")
    folder = RunFolder(runs[0])
    if not folder.config.is_file():
        raise UserError(f"{folder.path}: not a run (no config.yaml); write the folder of one, outputs/NAME")
    numbers = {}
    for key, text in given.items():
        try:
            numbers[key] = None if text == "null" else float(text)
        except ValueError:
            numbers[key] = math.nan
        if numbers[key] is not None and not math.isfinite(numbers[key]):
            raise UserError(f"command line: {key}={text} is no number; write what the host shows: {key}=0.9731")
    content = _load_json(folder.submitted, []) | numbers
    save_json(folder.submitted, {key: value for key, value in content.items() if value is not None})
    return folder.path.parent


def load_entries(output_dir):
    """Return an Entry for each run folder in a folder, by name; damaged ones too."""
    from src.checkpointing.run_folder import RunFolder

    if not Path(output_dir).is_dir():
        raise UserError(f"{output_dir}: no such folder; train a run, or set output_dir=FOLDER")
    folders = [RunFolder(path) for path in sorted(Path(output_dir).iterdir()) if not path.name.startswith(".")]
    found = [_load_entry(folder) for folder in folders if folder.config.is_file() or folder.scores.is_file()]
    if not found:
        raise UserError(f"{output_dir}: holds no run; train one with python train.py")
    return found


def _load_entry(folder):
    entry = Entry(folder.path)
    entry.settings = _load_settings(folder.config, entry.problems)
    if entry.settings:
        entry.made = folder.config.stat().st_mtime
    scores = _load_json(folder.scores, entry.problems)
    interval = scores.get("interval")
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    submitted = _load_json(folder.submitted, entry.problems)
    test = _load_json(folder.test_score, entry.problems)
    known = {"score": scores.get("pooled"), "low": low, "high": high, "mean": scores.get("mean")}
    known |= {"seconds": scores.get("seconds"), "test": test.get("score")}
    known |= {key: submitted.get(key) for key in ("public", "private")}
    entry.scores = {key: _number(value) for key, value in known.items()}
    blend = _load_json(folder.made_by, entry.problems)
    if blend:
        weights = blend.get("weights") if isinstance(blend.get("weights"), dict) else {}
        of = [f"{name} {weight:.2f}" for name, weight in weights.items() if _number(weight)]
        what = "probe" if folder.probe.is_file() else f"blend ({blend.get('method')})"
        entry.made_of = f"{what} of {listing(of, 6)}"
        return entry
    soup = _load_json(folder.soup, entry.problems)
    if isinstance(members := soup.get("members"), list):
        entry.made_of = f"soup of {listing([Path(str(one)).name for one in members], 6)}"
    entry.folds_done = len(folder.finished_folds())
    entry.has_all = folder.fold("all").is_finished()
    entry.num_folds = _count_folds(entry.settings, folder.folds)
    if not entry.folds_done and not entry.has_all:
        entry.problems.append("no fold is finished")
    return entry


def _load_settings(path, problems):
    """Return {dotted key: plain value} of a config.yaml, with today's defaults where it lacks one; {}: unreadable.

    src.config.load reads and checks the same file in 30 ms, of which a table of 300 runs has none to spare.
    """
    import yaml

    from src.config.settings import GROUPS

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        groups = {name: content[name] for name in GROUPS} if isinstance(content, dict) else {None: None}
        if not all(isinstance(group, dict) for group in groups.values()):
            raise KeyError
    except FileNotFoundError:
        problems.append("has no config.yaml")
    except KeyError:
        problems.append("config.yaml cannot be read (holds no settings of a run)")
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        problems.append(f"config.yaml cannot be read ({first_line(error)[:60]})")
    else:
        flat = content | {f"{name}.{key}": value for name, group in groups.items() for key, value in group.items()}
        return {key: flat.get(key, default) for key, default in _defaults().items()}
    return {}


@functools.cache
def _defaults():
    from src.config.settings import Config, settings, value_of

    return {key: _plain(value_of(Config(), key)) for key in settings()}


def _plain(value):
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _load_json(path, problems):
    """Return what a JSON file maps; {} of none, or of a damaged one, which is noted."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        problems.append(f"{path.name} is damaged")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError):
        problems.append(f"{path.name} is damaged")
    return {}


def _number(value):
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _count_folds(settings, folds_path):
    """Return how many folds a run validates on; None where it is not known."""
    method = settings.get("folds")
    if method == "holdout":
        return 1
    if isinstance(method, str) and method != "column" and not method.endswith(".csv"):
        return settings["num_folds"]
    try:  # the user's own
        with open(folds_path, encoding="utf-8", newline="") as file:
            return len({row["fold"] for row in csv.DictReader(file) if not row["fold"].startswith("-")})
    except (OSError, KeyError, AttributeError, ValueError, csv.Error):
        return None


def compare_with_recipes(entries):
    """Set .differs: the settings that training depends on and that are not the recipe's, as one would type them."""
    from src.checkpointing.run_folder import training_settings
    from src.config.help import as_word

    keys, parents = [key for key in training_settings() if key not in ("recipe", "competition.name")], {}
    for entry in sorted(entries, key=lambda one: one.made):
        if not entry.settings or entry.made_of:
            continue
        pair = entry.block[0], str(entry.settings["recipe"])
        if pair not in parents:
            parents[pair] = _load_recipe(*pair) or entry.settings
        parent = parents[pair]
        changed = [key for key in keys if entry.settings[key] != parent[key]]
        entry.differs = [f"{key}={as_word(entry.settings[key])}" for key in changed]


def _load_recipe(competition, recipe):
    """Return the settings of a recipe on a competition as their files are now; None where they cannot be read."""
    from src.config.load import load_config
    from src.config.settings import settings, value_of

    try:
        config = load_config([f"competition={competition}", f"recipe={recipe}"])
    except UserError:
        return None
    return {key: _plain(value_of(config, key)) for key in settings()}


def group_seeds(entries):
    """Return lists of entries: those that differ in the seed alone together, each seed once, and each other alone.

    Of two runs of one seed, siblings by name belong together: <name>_seed1, <name>_seed2.
    """
    from src.checkpointing.run_folder import training_settings

    keys, siblings, rows = [key for key in training_settings() if key != "seed"], {}, {}
    for entry in entries:
        same = str([entry.settings.get(key) for key in keys])
        if entry.made_of or not entry.settings:
            same = str(entry.path)
        siblings.setdefault((same, _stem(entry)), []).append(entry)
    for (same, _), group in siblings.items():
        for row in rows.setdefault(same, []):
            if not {_seed(entry) for entry in row} & {_seed(entry) for entry in group}:
                row += group
                break
        else:
            rows[same].append(group)
    return [row for found in rows.values() for row in found]


def _seed(entry):
    return str(entry.settings.get("seed"))


def _stem(entry):
    return entry.path.name.removesuffix(f"_seed{_seed(entry)}")


def _mean(entries, key):
    values = [entry.scores[key] for entry in entries if entry.scores[key] is not None]
    return statistics.fmean(values) if values else None


def describe(entries, sort, width):
    """Return the tables as text of `width` columns, one for each competition and metric."""
    lines, blocks = [], {}
    for entry in entries:
        if entry.settings:
            blocks.setdefault(entry.block, []).append(entry)
    for (competition, metric), block in sorted(blocks.items()):
        rows = sort_rows(group_seeds(block), sort, metric)
        count = f"{len(block)} run{'s' if len(block) > 1 else ''}"
        lines += [f"{competition}: {metric}, {count}", *_table(rows, width)]
        for key in ("public", "private"):
            lines += textwrap.wrap(correlate(block, key), width)
        lines.append("")
    for entry in entries:
        if not entry.settings:
            lines += textwrap.wrap(f"{entry.path}: {', '.join(entry.problems)}", width, break_on_hyphens=False)
    return "\n".join(lines).rstrip("\n")


def sort_rows(rows, sort, metric):
    """Return the rows, lists of entries, in the order that is asked for; those without the value last."""
    if sort == "name":
        return sorted(rows, key=lambda row: row[0].path.name)
    if sort == "time":
        return sorted(rows, key=lambda row: -max(entry.made for entry in row))
    sign = 1
    if sort != "seconds":
        from src.evaluation.metrics import METRICS

        name = metric.partition(" ")[0]
        sign = -1 if name not in METRICS or METRICS[name].greater_is_better else 1

    def rank(row):
        value = _mean(row, sort)
        return value is None, sign * (value or 0.0), row[0].path.name

    return sorted(rows, key=rank)


def _table(rows, width):
    columns = ["score", "95 %", "folds", "seconds"]
    columns += [key for key in ("test", "public", "private") if any(_mean(row, key) is not None for row in rows)]
    cells = [columns, *([_cell(row, column) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    shown = ["  ".join(cell.rjust(size) for cell, size in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines, start = [f"  {shown[0]}  run"], 2 + sum(widths) + 2 * len(widths)
    for row, numbers in zip(rows, shown[1:], strict=True):
        names, first = _names(row), row[0]
        differs = [word for word in first.differs if len(row) == 1 or not word.startswith("seed=")]
        what = first.made_of or f"{first.settings['recipe']}: {' '.join(differs) or 'as the recipe is'}"
        problems = dict.fromkeys(problem for entry in row for problem in entry.problems)
        what = "; ".join([what, *problems])
        if start + len(names) <= width:
            lines.append(f"  {numbers}".ljust(start) + names)
        else:
            lines += [f"  {numbers}".rstrip(), *_wrap(names, width)]
        lines += _wrap(what, width)
    return lines


def _wrap(text, width):
    how = {"initial_indent": "      ", "subsequent_indent": "        ", "break_on_hyphens": False}
    return textwrap.wrap(text, width, **how)


def _cell(row, column):
    value = _mean(row, "score" if column == "95 %" else column) if column != "folds" else None
    if column == "folds":
        done, total = {entry.folds_done for entry in row}, {entry.num_folds for entry in row}
        if done == {None}:
            return ""
        known = min(count for count in done if count is not None), next(iter(total))
        return f"{known[0]}/{'?' if known[1] is None else known[1]}{'+all' if all(one.has_all for one in row) else ''}"
    if column == "95 %":
        scored = [entry.scores["score"] for entry in row if entry.scores["score"] is not None]
        if len(row) > 1:
            return f"sd {statistics.stdev(scored):.5f}, {len(row)} seeds" if len(scored) > 1 else f"{len(row)} seeds"
        low, high = row[0].scores["low"], row[0].scores["high"]
        return "" if low is None or high is None else f"{low:.5f} to {high:.5f}"
    return "" if value is None else f"{value:.0f}" if column == "seconds" else f"{value:.5f}"


def _names(row):
    """Return the name of a row: demo_seed[1,2,3] of siblings."""
    stems = {_stem(entry) for entry in row}
    if len(row) > 1 and len(stems) == 1:
        return f"{stems.pop()}_seed[{','.join(sorted(map(_seed, row), key=lambda seed: (len(seed), seed)))}]"
    return ", ".join(entry.path.name for entry in row)


def correlate(entries, key):
    """Return one sentence on how the out-of-fold scores go with the host's, "" of fewer than three runs."""
    pairs = [(entry.scores["score"], entry.scores[key]) for entry in entries if None not in
             (entry.scores["score"], entry.scores[key])]  # fmt: skip
    if len(pairs) < 3:
        return ""
    if any(len(set(values)) == 1 for values in zip(*pairs, strict=True)):
        return f"out-of-fold and {key} score of {len(pairs)} runs: no correlation, as one of the two does not vary"
    from scipy import stats

    own, theirs = zip(*pairs, strict=True)
    plain, ranks = (float(one(own, theirs).statistic) for one in (stats.pearsonr, stats.spearmanr))
    return f"out-of-fold and {key} score of {len(pairs)} runs: correlation {plain:.2f}, rank correlation {ranks:.2f}"


def save_csv(path, entries):
    """Write a row for each run; `row` is the name of the row in which the terminal shows it."""
    from src.files import save_text

    names = {id(entry): _names(row) for row in group_seeds(entries) for entry in row}
    header = ["run", "row", "competition", "metric", "recipe", "differs", "seed", "score", "low", "high", "mean"]
    header += ["folds_done", "folds", "has_all", "seconds", "test", "public", "private", "made", "problems"]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    for entry in entries:
        competition, metric = entry.block if entry.settings else ("", "")
        made = datetime.fromtimestamp(entry.made).isoformat(timespec="seconds") if entry.made else ""
        scores = entry.scores
        lines.writerow([
            entry.path, names[id(entry)], competition, metric, entry.settings.get("recipe", ""),
            entry.made_of or " ".join(entry.differs), entry.settings.get("seed", ""),
            *(scores[key] for key in ("score", "low", "high", "mean")), entry.folds_done, entry.num_folds,
            str(entry.has_all).lower(), *(scores[key] for key in ("seconds", "test", "public", "private")), made,
            "; ".join(entry.problems),
        ])  # fmt: skip
    save_text(Path(path), text.getvalue())


if __name__ == "__main__":
    main(sys.argv[1:])
