"""Folders of runs as train.py and infer.py leave them, written by the test; nothing is trained."""

import json

import numpy as np
import pandas as pd
import pytest

from src.competition.predictions import join_columns
from src.config.load import config_yaml, load_config
from src.evaluation.judgement import judge_run
from src.evaluation.metrics import build_metric
from src.evaluation.out_of_fold import OutOfFold
from tools.report.__main__ import main


@pytest.fixture
def write_run(tmp_path):
    """write(targets (N, C), probs, *words, names, groups, folds, test, blend): the path of a run's folder."""

    def write(targets, probs, *words, names=None, groups=None, folds=None, test=None, blend=None, run="outputs/made"):
        folder = tmp_path / run
        folder.mkdir(parents=True)
        targets, probs = np.asarray(targets, float), np.asarray(probs, float)
        names = names or [f"c{k}" for k in range(targets.shape[1])]
        config = load_config([f"output_dir={folder.parent}", f"name={folder.name}", "model.pretrained=false", *words])
        competition = config.competition
        (folder / "config.yaml").write_text(config_yaml(config))
        ids = np.array([f"{row:05d}" for row in range(len(targets))])
        folds = np.arange(len(ids)) % 5 if folds is None else np.asarray(folds)
        own = {"id": ids, "fold": folds} | ({} if groups is None else {"group": groups})
        join_columns(own, targets, names).to_csv(folder / "folds.csv", index=False)
        metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
        done = folds >= 0
        oof = OutOfFold(ids[done], folds[done], targets[done], probs[done], tuple(names),
                        None if groups is None else np.asarray(groups)[done])  # fmt: skip
        known = {f"target_{name}": column for name, column in zip(names, oof.targets.T, strict=True)}
        rows = join_columns({"id": oof.ids, "fold": oof.folds} | known, oof.probs, names)
        rows.to_csv(folder / "oof.csv", index=False)
        of_fold = {str(one): metric.score(oof.targets[oof.folds == one], oof.probs[oof.folds == one])
                   for one in np.unique(oof.folds)}  # fmt: skip
        scores = {"metric": metric.name, "select": "last", **judge_run(metric, oof, competition, 300)}
        scores |= {"mean": float(np.mean([*of_fold.values()])), "folds": of_fold, "seconds": 50.0}
        (folder / "scores.json").write_text(json.dumps(scores))
        if blend is not None:
            (folder / "blend.json").write_text(json.dumps({"command": blend}))
            return folder
        write_log(folder, [int(one) for one in of_fold], of_fold, names)
        command = {"command": f"python train.py name={folder.name}", "commit": "0" * 40, "is_dirty": False}
        more = {"versions": {"python": "3.11"}, "machine": {"cpu": "a CPU", "gpu": None}, "tables": {}, "later": []}
        (folder / "provenance.json").write_text(json.dumps(command | more))
        if test is not None:
            for one in of_fold:
                rows = join_columns({"id": np.arange(len(test)).astype(str)}, np.asarray(test), names)
                rows.to_csv(folder / f"fold{one}/test.csv", index=False)
        return folder

    return write


def write_log(folder, folds, scores, names, epochs=3):
    for fold in folds:
        (folder / f"fold{fold}").mkdir(exist_ok=True)
        rows = {"epoch": range(1, epochs + 1), "lr": np.linspace(0.1, 0, epochs), "images_per_second": 100.0}
        rows |= {"train_loss": 1 / np.arange(1, epochs + 1), "val_loss": None, "val_score": None}
        if str(fold) in scores:
            rows |= {"val_loss": 1.1 / np.arange(1, epochs + 1), "val_score": scores[str(fold)]}
        rows |= {"seconds": np.arange(1.0, epochs + 1), "gradient_stem": 1.0, "gradient_head": 0.0}
        pd.DataFrame(rows).to_csv(folder / f"fold{fold}/log.csv", index=False)
        meta = {"fold": fold, "epoch": epochs, "best_epoch": 2, "seconds": float(epochs), "target_names": names}
        (folder / f"fold{fold}/meta.json").write_text(json.dumps(meta))


@pytest.fixture
def report(capsys):
    """report(*words): (the page's text, what report.json holds) after the tool has printed the page's path.

    Without images, which another program makes, unless images=true is among the words.
    """

    def run(*words):
        main(["images=false", *map(str, words)])
        path = capsys.readouterr().out.splitlines()[-1]
        with open(path, encoding="utf-8") as page, open(path.replace(".html", ".json"), encoding="utf-8") as facts:
            return page.read(), json.load(facts)

    return run


def draw_probs(targets, seed=0, gain=1.5):
    """Probabilities (N, C) that know something of the targets, 0 in place of what is missing."""
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(gain * (2 * np.nan_to_num(targets) - 1) + rng.normal(size=np.shape(targets)))))
