"""Candidates -> kept features -> judged models -> a table, and the best one as a run's folder."""

import functools
import shutil
import tempfile
import textwrap
import time
from dataclasses import dataclass, field, replace

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from src.checkpointing.run_folder import RunFolder
from src.competition.folds import make_folds
from src.competition.predictions import TestSet
from src.competition.splits import SPLITS
from src.competition.submission import load_sample
from src.competition.tables import load_test_table
from src.data.scan import compute_pixel_stats, find_unreadable
from src.evaluation.intervals import describe_difference, holm
from src.evaluation.judgement import judge_run
from src.evaluation.metrics import log_loss
from src.evaluation.out_of_fold import OutOfFold
from src.evaluation.sampling import sample_scores
from src.inference.prediction_folder import check_place, write_folder, write_test
from src.terminal import track
from src.training.run import load_run, start_processes
from src.training.run_data import leave_out_unreadable, save_folds
from tools.probe.features import build_source
from tools.probe.regression import RegularizationPath, predict

_GRID = tuple(10 ** (half / 2) for half in range(-12, 5))  # 1e-6 to 100
_NUM_INNER, _POOL = 3, 6  # parts of the training rows of two folds; candidates that are joined
_WIDTH, _LONG = 80, 5  # columns; minutes
METADATA = "metadata"  # the block that is of no backbone


@dataclass
class Candidate:
    """The features of some blocks, ((source's number, layer), ...), judged."""

    blocks: tuple
    name: str
    num_features: int
    probs: np.ndarray  # (N, K), out-of-fold; of rows that no fold validates nan
    inner: dict = field(default_factory=dict)  # {fold: the score, within its training rows, that has chosen C}
    c: dict = field(default_factory=dict)  # {fold: C}
    models: dict = field(default_factory=dict)  # {fold: (coefficients (D, K), intercepts (K,))}
    seconds: float = 0.0


def probe(config, options):
    """Judge all candidates, print them and write the best; return what probe.json holds."""
    check_place(config.run_folder, "probe", config.overwrite)
    with tempfile.TemporaryDirectory() as scratch, threadpool_limits(config.threads):
        run = replace(load_run(config, start_processes(config)), folder=RunFolder(scratch))
        config = run.config  # with competition.num_images as the rows have it
        run.table = leave_out_unreadable(config, run.table, run.folder.unreadable)
        stats = functools.cache(lambda: compute_pixel_stats(run.table.paths, config))
        words = options["candidates"] or [config.model.backbone]
        sources = [build_source(one, config, run.table, options["layers"], options["hflip"], stats) for one in words]
        blocks = {}
        for number, source in enumerate(sources):
            features = source.load(run, num_reads=len(sources) - number)
            for layer, columns in source.slices.items():
                blocks[number, layer] = features[:, columns]
            print(f"{source.word}: features of {len(features)} images, {source.seconds:.1f} s", flush=True)
        if options["metadata"] and run.table.metadata is not None:
            blocks[METADATA, METADATA] = run.table.metadata
        judge = Judge(run, blocks, {number: one.word for number, one in enumerate(sources)}, options)
        candidates = judge.compare(options["join"])
        result, best = summarize(run, candidates, sources, options)
        print(describe(result))
        write(run, sources, best, result)
    return result


class Judge:
    """Judges blocks of features {key: (N, D)}, alone and joined, on a run.Run's folds."""

    def __init__(self, run, blocks, words, options):
        self._run, self._blocks, self._words, self._options = run, blocks, words, options
        self._grid, self._threads = options["C"] or _GRID, run.config.threads or joblib.cpu_count()
        self._sets, self._outer, self._inner = list_splits(run.config, run.table, run.folds, run.metric)
        self._weights = weigh(run.table, self._sets, options["balance"])
        self._known = {}

    def compare(self, join):
        """Return the Candidates: each block, and what is joined; of join=all this alone."""
        if join == "all":
            return [self.judge(tuple(self._blocks))]
        found = [self.judge((key,)) for key in self._blocks]
        pool = sorted(found, key=self._order)[:_POOL]
        pool += [one for one in found if one.name == METADATA and one not in pool]
        if join == "pairs":
            found += [self._join(a, b) for place, a in enumerate(pool) for b in pool[place + 1 :]]
        best = pool[0]
        while join == "greedy" and len(pool) > 1:
            tried = [self._join(best, one) for one in pool if not set(one.blocks) <= set(best.blocks)]
            found += tried
            following = min(tried, key=self._order, default=best)
            if self._order(following) >= self._order(best):
                break
            best = following
        return found

    def _order(self, candidate):
        """The smaller the better: the mean, over folds, of the score within the training rows."""
        return _loss_of(self._run.metric, np.mean(list(candidate.inner.values())))

    def _join(self, first, second):
        return self.judge(tuple(sorted({*first.blocks, *second.blocks}, key=list(self._blocks).index)))

    def judge(self, keys):
        """Return the Candidate of some blocks beside each other."""
        if keys in self._known:
            return self._known[keys]
        began, table, metric = time.perf_counter(), self._run.table, self._run.metric
        features = np.concatenate([self._blocks[key] for key in keys], axis=1)
        name = self._name(keys)
        found = Candidate(keys, name, features.shape[1], np.full(table.targets.shape, np.nan))
        path = RegularizationPath(features, table.targets, self._weights, table.task, self._threads)
        least, best = np.inf, np.nan
        for c in self._grid:
            self._solve(path, c, name)
            scores, losses = [], []
            for fold, place in self._outer.items():
                inner = np.full(table.targets.shape, np.nan)
                for number, rows in self._inner[fold]:
                    inner[rows] = predict(features[rows], path.model(number), table.task)
                rows = ~np.isnan(inner).any(axis=1)
                score, loss = metric.score(table.targets[rows], inner[rows]), compute_loss(table, rows, inner)
                scores, losses = [*scores, score], [*losses, loss]
                if fold not in found.c or metric.is_better(score, found.inner[fold]):
                    own, found.inner[fold], found.c[fold] = table.folds == fold, score, c
                    found.models[fold] = path.model(place)
                    found.probs[own] = predict(features[own], found.models[fold], table.task)
            score, loss = np.mean(scores), np.mean(losses)
            if loss >= least and not metric.is_better(score, best) and not self._options["C"]:
                break  # weaker penalties have stopped to help
            least, best = min(least, loss), score if metric.is_better(score, best) else best
        found.seconds = time.perf_counter() - began
        print(f"  {name}: {found.num_features} features, {found.seconds:.1f} s", flush=True)
        self._known[keys] = found
        return found

    def _solve(self, path, c, name):
        """Fit all models at a C, behind a bar; say before how long the grid takes, where that is minutes."""
        began = time.perf_counter()
        with threadpool_limits(1):  # of each fit
            for number, _ in enumerate(track(path.solve(c), f"C={c:.1e}", path.num_fits, unit="fits")):
                if number == 1 and c == self._grid[0]:
                    num_turns = path.num_fits * len(self._grid) / max(2, self._threads)
                    if (minutes := (time.perf_counter() - began) / 60 * num_turns) >= _LONG:
                        advice = "fewer values of C, folds, layers or joins take less"
                        print(f"  {name}: about {minutes:.0f} minutes; {advice}", flush=True)

    def _name(self, keys):
        """Return the candidate's name: "resnet18 + resnet34 (layer3, last)"."""
        layers = {}
        for source, layer in keys:
            layers.setdefault(self._words.get(source, METADATA), []).append(layer)
        return " + ".join(
            word if given in (["last"], [METADATA]) else f"{word} ({', '.join(given)})"
            for word, given in layers.items()
        )


def compute_loss(table, rows, probs):
    """Return the log loss of some rows, of regression the mean squared error in units of each target's variance."""
    truth, probs = table.targets[rows], probs[rows]
    if table.task == "regression":
        return float(np.nanmean((probs - truth) ** 2 / np.maximum(np.nanvar(truth, axis=0), 1e-300)))
    return log_loss(truth, probs, table.task)


def list_splits(config, table, folds, metric):
    """Return (training sets (S, N) bool, {fold: its set}, {fold: [(inner set, the rows that it validates), ...]}).

    Of three folds or more a fold's inner sets leave out one more fold each, so that two folds share each of them.
    """
    sets, outer, inner = [], {}, {fold: [] for fold in folds}
    for fold in folds:
        outer[fold] = len(sets)
        sets.append(table.folds != fold)
    for place, fold in enumerate(folds if len(folds) > 2 else ()):
        for other in folds[place + 1 :]:
            for one, val in ((fold, other), (other, fold)):
                inner[one].append((len(sets), table.folds == val))
            sets.append((table.folds != fold) & (table.folds != other))
    for fold in folds if len(folds) < 3 else ():
        rows = np.flatnonzero(sets[outer[fold]])
        method = config.folds if config.folds in SPLITS else "auto"
        parts = make_folds(table.take(rows), method, _NUM_INNER, config.fold_seed, metric)
        for part in range(_NUM_INNER):
            train, val = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
            train[rows[parts != part]] = val[rows[parts == part]] = True
            inner[fold].append((len(sets), val))
            sets.append(train)
    return np.stack(sets), outer, inner


def weigh(table, sets, is_balanced):
    """Return (S, N, K): each cell's weight in each training set; balanced: sides, or classes, weigh the same.

    Then as scikit-learn's class_weight="balanced": rows / (classes * rows of the class).
    """
    weights = sets[:, :, None] * (~np.isnan(table.targets)).astype(np.float64)
    if not is_balanced:
        return weights
    is_positive = table.positives
    if table.task == "multiclass":
        counts = (weights * is_positive).sum(axis=1)  # (S, K)
        sizes = weights[:, :, 0].sum(axis=1, keepdims=True)
        share = sizes / np.maximum(counts, 1) / (counts > 0).sum(axis=1, keepdims=True)
        return weights * (is_positive * share[:, None]).sum(axis=2, keepdims=True)
    sides = [(weights * one).sum(axis=1, keepdims=True) for one in (is_positive, ~is_positive)]
    half = (sides[0] + sides[1]) / 2
    return weights * np.where(is_positive, half / np.maximum(sides[0], 1), half / np.maximum(sides[1], 1))


def summarize(run, candidates, sources, options):
    """Return (what probe.json holds, the best Candidate)."""
    table, metric = run.table, run.metric
    rows = np.isin(table.folds, run.folds)
    groups = None if table.groups is None else table.groups[rows]
    chosen = {fold: min(candidates, key=lambda one: _loss_of(metric, one.inner[fold])) for fold in run.folds}
    nested = np.full(table.targets.shape, np.nan)
    for fold, one in chosen.items():
        nested[table.folds == fold] = one.probs[table.folds == fold]
    every = [*(one.probs[rows] for one in candidates), nested[rows]]
    found = sample_scores(metric, table.targets[rows], every, groups)
    order = sorted(range(len(candidates)), key=lambda k: _loss_of(metric, found.scores[k]))
    first, others = order[0], order[1:]
    differences = {k: found.difference(first, k) for k in others}
    corrected = dict(zip(others, holm([differences[k][3] for k in others]), strict=True))
    listed = []
    for k in order:
        one = candidates[k]
        entry = {"name": one.name, "score": float(found.scores[k]), "interval": list(found.interval(k))}
        entry |= {"features": one.num_features, "C": {str(fold): c for fold, c in one.c.items()}}
        entry |= {"seconds": round(one.seconds, 2)}
        if k != first:
            difference, low, high, _ = differences[k]
            entry |= {"difference": difference, "difference_interval": [low, high], "p_holm": corrected[k]}
        listed.append(entry)
    best = candidates[first]
    words = dict.fromkeys(METADATA if key[0] == METADATA else sources[key[0]].word for key in best.blocks)
    result = {
        "metric": metric.name, "method": found.method, "rows": int(rows.sum()), "best": best.name,
        "score": float(found.scores[first]), "interval": list(found.interval(first)), "candidates": listed,
        "nested": float(found.scores[-1]), "nested_interval": list(found.interval(len(candidates))),
        "feature_seconds": {one.word: round(one.seconds, 2) for one in sources},
        "weights": {one: 1.0 for one in words}, "command": options["command"],
    }  # fmt: skip
    return result | {"sentences": conclude(result)}, best


def _loss_of(metric, score):
    return np.nan_to_num(-score if metric.greater_is_better else score, nan=np.inf)


def conclude(result):
    """Return plain sentences: what differs from the best, and what choosing the best of many promises too much."""
    others, sentences = result["candidates"][1:], []
    clear = [one for one in others if one["p_holm"] < 0.05]
    if others:
        alike = len(others) - len(clear)
        text = f"{len(clear)} of {len(others)} others are worse than {result['best']} beyond noise (p < 0.05 by Holm)"
        if alike:
            one = next(one for one in others if one["p_holm"] >= 0.05)
            numbers = describe_difference(one["difference"], one["difference_interval"])
            text += f"; {alike} may be as good, the next of them {one['name']} ({numbers})"
        low, high = result["nested_interval"]
        sentences.append(text)
        sentences.append(
            f"with the candidate, too, chosen within each fold's training rows: {result['nested']:.5f}, "
            f"95 % {low:.5f} to {high:.5f}"
        )
    return sentences


def describe(result):
    """Return the result as text of 80 columns."""
    title = f"out-of-fold {result['metric']} of {result['rows']} rows, intervals by {result['method']}"
    lines = ["", title, f"{'score':>9}  {'95 %':<18} {'to the best':>11} {'C':>7} {'D':>6} {'s':>6}"]
    for one in result["candidates"]:
        low, high = one["interval"]
        values = sorted(one["C"].values())
        difference = f"{one['difference']:+.5f}" if "difference" in one else ""
        mark = "*" if one.get("p_holm", 1) < 0.05 else " "
        lines.append(
            f"{one['score']:9.5f}  {low:.5f} to {high:.5f} {difference:>10}{mark} {values[len(values) // 2]:7.1e} "
            f"{one['features']:6d} {one['seconds']:6.1f}"
        )
        lines += textwrap.wrap(one["name"], _WIDTH, initial_indent="    ", subsequent_indent="    ")
    lines += ["*: worse than the best beyond noise; C: of the middle fold; s: to fit all folds and C"]
    for sentence in result["sentences"]:
        lines += textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False)
    return "\n".join(lines)


def write(run, sources, best, result):
    """Write the best candidate's folder, with the submission where there are test rows."""
    config, table, metric, rows = run.config, run.table, run.metric, np.isin(run.table.folds, run.folds)
    first = next((key[0] for key in best.blocks if key[0] != METADATA), None)
    saved = replace(sources[first].config if first is not None else config, overwrite=False, precision="auto")
    groups, units = (None if one is None else one[rows] for one in (table.groups, table.units))
    oof = table.ids[rows], table.folds[rows], table.targets[rows], best.probs[rows], table.target_names, groups
    oof = OutOfFold(*oof)
    by_fold = {fold: metric.score(table.targets[own], best.probs[own]) for fold, own in
               ((str(fold), table.folds == fold) for fold in run.folds)}  # fmt: skip
    scores = {"metric": metric.name, "select": "probe", "mean": float(np.mean(list(by_fold.values())))}
    scores |= {"folds": by_fold, "seconds": round(sum(result["feature_seconds"].values()) + best.seconds, 2)}
    scores |= judge_run(metric, oof, config.competition, table.num_test, units)
    lines = [f"{config.run_folder}/oof.csv: {len(oof.ids)} predictions of {best.name}"]
    with write_folder(saved, "probe", oof, scores, result) as folder:
        save_folds(folder.folds, table, has_work=False)  # with the rows that no fold validates
        if run.folder.unreadable.is_file():
            shutil.copyfile(run.folder.unreadable, folder.unreadable)
        if (sample := load_sample(config.competition)) is None and not config.competition.test_table:
            lines.append("no test rows are known, so that no submission is written")
        else:
            test = load_test_table(config.competition, table.target_names, table.encoding)
            probs, test_set = predict_test(run, test, sources, best), TestSet(config.competition, metric, test, sample)
            lines += write_test(folder, config.run_folder, test_set, probs, scores)
    print(*lines, sep="\n")


def predict_test(run, test, sources, best):
    """Return (N, K): the mean of the folds' models; an image that cannot be decoded has the mean of the others."""
    is_readable = np.ones(len(test), dtype=bool)
    if run.config.unreadable == "skip":
        for row, reason in find_unreadable(test.paths, run.config.competition):
            is_readable[row] = False
            print(f"{test.ids[row]}: gets the mean prediction ({reason})")
    test, blocks = test.take(is_readable), []
    loaded = {number: sources[number].load(replace(run, table=test, caches={}), 1)
              for number in {key[0] for key in best.blocks} - {METADATA}}  # fmt: skip
    for source, layer in best.blocks:
        blocks.append(test.metadata if source == METADATA else loaded[source][:, sources[source].slices[layer]])
    features = np.concatenate(blocks, axis=1)
    task = run.config.competition.task
    read = np.mean([predict(features, model, task) for model in best.models.values()], axis=0)
    probs = np.repeat(read.mean(axis=0, keepdims=True), len(is_readable), axis=0)
    probs[is_readable] = read
    return probs
