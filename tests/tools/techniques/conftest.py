"""The scores that finished runs of a study leave."""

from src.config.load import config_yaml
from src.files import save_json, save_text


def save_scores(study, technique, scores):
    """Write what the finished runs of a technique leave, with these scores: {seed: [score of each fold]}."""
    for seed, folds in scores.items():
        run = study.run_of(technique, seed)
        save_text(run.config, config_yaml(study.config_of(technique, seed)))
        save_text(run.folds, "id,fold\n" + "".join(f"{row},{row % len(folds)}\n" for row in range(10)))
        folds = dict(enumerate(folds))
        save_json(run.scores, {"mean": 0, "folds": folds, "seconds": 2.0})
