"""Runs that predict what a test decides."""

import json

import numpy as np
import pandas as pd
import pytest

from src.config.load import config_yaml, load_config
from tools.blend.__main__ import main

ALONE = [f"competition.{key}=null" for key in ("sample_submission", "solution", "test_table")]


def draw(num_rows, gains, seed=0, num_noise=0, num_columns=1):
    """Targets (N, C) and predictions of N rows: by gain, the larger the better; and pure noise."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, num_columns)) < 0.4).astype(float)
    shared = rng.normal(size=targets.shape)
    probs = [1 / (1 + np.exp(-(g * (targets - 0.4) + 0.7 * shared + rng.normal(size=targets.shape)))) for g in gains]
    return targets, [*probs, *(rng.random(targets.shape) for _ in range(num_noise))]


@pytest.fixture
def write_run(tmp_path, monkeypatch):
    """write(name, targets, probs, test=None (T, C), groups, words, rows, num_folds): a run, trained and inferred."""
    monkeypatch.chdir(tmp_path)

    def write(name, targets, probs, test=None, groups=None, words=(), rows=None, num_folds=5):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        config = load_config([f"name={name}", "competition.task=binary", *ALONE, *words])
        (folder / "config.yaml").write_text(config_yaml(config))
        names = ["cat"] if targets.shape[1] == 1 else [f"c{k}" for k in range(targets.shape[1])]
        table = pd.DataFrame({"id": [f"{row:05d}" for row in range(len(targets))]})
        table["fold"] = (np.arange(len(targets)) if groups is None else groups) % num_folds
        if groups is not None:
            table["group"] = groups
        known = pd.DataFrame(targets, columns=[f"target_{one}" for one in names])
        table.to_csv(folder / "folds.csv", index=False)
        oof = pd.concat([table[["id", "fold"]], known, pd.DataFrame(probs, columns=names)], axis=1)
        (oof if rows is None else oof.iloc[rows]).to_csv(folder / "oof.csv", index=False)
        for fold in range(num_folds if test is not None else 0):
            (folder / f"fold{fold}").mkdir()
            (folder / f"fold{fold}" / "meta.json").write_text(json.dumps({"target_names": names}))
            shift = (fold - (num_folds - 1) / 2) / 100  # its mean over folds is 0
            rows_of_test = pd.DataFrame(np.asarray(test) + shift, columns=names)
            rows_of_test.insert(0, "id", [f"t{row}" for row in range(len(test))])
            rows_of_test.to_csv(folder / f"fold{fold}" / "test.csv", index=False)
        return f"outputs/{name}"

    return write


@pytest.fixture
def blend(tmp_path):
    """blend(*words): what blend.json holds; the folder is outputs/blend unless name= is among the words."""

    def run(*words):
        named = [word for word in words if word.startswith("name=")] or ["name=blend"]
        main([*(word for word in words if word not in named), *named])
        return json.loads((tmp_path / "outputs" / named[0].removeprefix("name=") / "blend.json").read_text())

    return run
