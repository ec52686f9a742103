"""The mean of several runs' weights: python -m tools.soup RUN_A RUN_B ... name=NAME [batchnorm=refresh|average]

Fold k's networks are averaged and judged on fold k's rows, which none of them has learned from.
"""

import sys
import textwrap

from src.errors import UserError, listing, nearest, one_line_errors

_WIDTH = 80
_ARCHITECTURE = ("backbone", "kwargs", "pool", "norm", "dropout2d_rate", "head", "head_kwargs")  # of model
USAGE = """usage: python -m tools.soup RUN_A RUN_B ... name=NAME [key=value ...]

  python -m tools.soup outputs/lr3e-4 outputs/lr1e-3 outputs/seed2 name=soup

Averages the weights of runs of one network and the same folds: one network a
fold again, which infer.py, compare and blend take as any run. Runs that were
fine-tuned from the same weights, of backbone and head (so with one seed, which
decides the head's), often lie in one basin, and their mean may predict better
than each. Runs from other random weights do not, and their mean predicts
nothing.

Greedy soup (Wortsman et al., 2022, arXiv:2203.05482, recipe 1): from the run
with the best out-of-fold score on, each is added if the score does not fall.
All folds have the same members. They are chosen by the score that is printed;
"nested" is the score where a fold's members are chosen on the other folds.
Printed beside them is the best run alone, each with a 95 % interval. Members
are in soup.json.

  name=NAME             the folder in outputs that is written
  batchnorm=refresh     statistics of BatchNorm that differ between members are
                        computed anew, in a pass over the fold's training images
  batchnorm=average     they are averaged, as weights are: faster
  device= threads= precision= train.num_workers= competition.root= ...
                        where and how it runs, as infer.py takes them
"""


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        runs = list(dict.fromkeys(word.rstrip("/") for word in words if "=" not in word))
        chosen = dict(word.split("=", 1) for word in words if "=" in word)
        name, batchnorm = chosen.pop("name", ""), chosen.pop("batchnorm", "refresh")
        if len(runs) < 2:
            raise UserError(f"command line: {len(runs)} runs, wanted are 2 or more; write RUN_A RUN_B, folders of runs")
        if not name:
            raise UserError("command line: name= is missing; write name=NAME, the folder in outputs for the soup")
        if wrong := next((key for key in chosen if key.startswith("infer.")), None):
            raise UserError(f"command line: {wrong} is infer.py's, no network is averaged by it; leave it out")
        if batchnorm not in ("refresh", "average"):
            found = f"not one of refresh, average{nearest(batchnorm, ('refresh', 'average'))}"
            raise UserError(f"batchnorm={batchnorm}: {found}")
        make_soup(runs, name, batchnorm, [f"{key}={value}" for key, value in chosen.items()])


def make_soup(paths, name, batchnorm, words):
    """Make the soup of some run folders, print how good it is and write it."""
    from src.checkpointing.run_folder import load_run
    from src.config.load import load_saved_config
    from src.evaluation.metrics import build_metric

    configs = [load_run([f"run={path}", *words])[1] for path in paths]
    target = load_saved_config(paths[0], [f"name={name}"])
    if target.run_folder.exists():
        raise UserError(f"{target.run_folder}: exists; choose name=ANOTHER or delete it")
    check_alike(paths, configs)
    competition = configs[0].competition
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    soups = Soups(paths, configs, metric, batchnorm)
    print(f"{metric.name} of {len(soups.run.oof.ids)} out-of-fold rows", flush=True)
    every = list(soups.numbers)
    members = soups.choose(every, shows=True)
    nested = None if len(every) < 2 else {one: soups.choose([k for k in every if k != one]) for one in every}
    result = judge(soups, members, nested)
    target = load_saved_config(paths[members[0]], [f"name={name}"])
    write(soups, members, target, result)
    for sentence in result["sentences"]:
        print("\n".join(textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False)))


def check_alike(paths, configs):
    """Check that runs are of one network on the same images; a UserError names the first difference."""
    from src.checkpointing.run_folder import RunFolder, differing_settings
    from src.competition.tables import read_table
    from src.config.help import as_word
    from src.config.settings import value_of

    needed = {"image_size", "resize", "normalize", *(f"model.{one}" for one in _ARCHITECTURE)}
    first = read_table(RunFolder(paths[0]).folds)[["id", "fold"]]
    encoding = RunFolder(paths[0]).load_encoding(configs[0].competition)
    for path, config in zip(paths[1:], configs[1:], strict=True):
        keys = differing_settings(configs[0], config)
        if wrong := [key for key in keys if key in needed or key.startswith("competition.")]:
            found = [
                f"{one}={as_word(value_of(config, one))} (not {as_word(value_of(configs[0], one))})" for one in wrong
            ]
            raise UserError(
                f"{path}: {listing(found, 3)}, unlike {paths[0]}; a soup needs runs of one network and task"
            )
        if RunFolder(path).load_encoding(config.competition) != encoding:
            found = f"its {RunFolder(path).metadata.name} is another than that of {paths[0]}"
            raise UserError(f"{path}: {found}; a soup needs runs of one training table")
        if not read_table(RunFolder(path).folds)[["id", "fold"]].equals(first):
            raise UserError(f"{path}: has other folds than {paths[0]}; a soup needs runs of the same folds and rows")


class Soups:
    """Runs whose weights are averaged, and what the averages predict, each computed once."""

    def __init__(self, paths, configs, metric, batchnorm):
        import numpy as np

        from src.checkpointing.run_folder import RunFolder
        from src.evaluation.out_of_fold import load_out_of_fold
        from src.inference.reopened_run import ReopenedRun

        self.paths, self.configs, self.metric, self._batchnorm = paths, configs, metric, batchnorm
        self.folders = [RunFolder(path) for path in paths]
        self.run = ReopenedRun(configs[0], paths[0], num_passes=2 * len(paths))
        self.numbers = [fold.number for fold in self.run.folds]
        self._folds, self._targets, self._probs = self.run.oof.folds, self.run.oof.targets, {}
        for place, folder in enumerate(self.folders):
            oof = load_out_of_fold(folder.oof, folder.folds)
            if not np.array_equal(oof.ids, self.run.oof.ids):
                found = f"has finished folds {listing(np.unique(oof.folds))}, {paths[0]} has {listing(self.numbers)}"
                raise UserError(f"{paths[place]}: {found}; finish the same folds of all runs")
            for number in self.numbers:
                self._probs[frozenset([place]), number] = oof.probs[oof.folds == number]

    def predict(self, members, numbers):
        """Return what the soup of some runs (their places) predicts for the rows of some folds, in oof.csv's order."""
        import numpy as np

        probs = np.full(self.run.oof.probs.shape, np.nan)
        for number in numbers:
            key = frozenset(members), number
            if key not in self._probs:
                network = self.build(members, number)
                self._probs[key] = self.run.predict_fold([network], number, f"fold {number}")[0].astype(np.float64)
            probs[self._folds == number] = self._probs[key]
        return probs

    def score(self, members, numbers):
        """Return the pooled score of a soup on the rows of some folds."""
        import numpy as np

        rows = np.isin(self._folds, numbers)
        return self.metric.score(self._targets[rows], self.predict(members, numbers)[rows])

    def choose(self, numbers, shows=False):
        """Return the greedy soup's members, by the pooled score of some folds; the first is the best run alone."""
        sign = -1 if self.metric.greater_is_better else 1
        alone = {place: self.score([place], numbers) for place in range(len(self.paths))}
        order = sorted(alone, key=lambda place: sign * alone[place])
        members, best = order[:1], alone[order[0]]
        for place in order:
            found = alone[place] if place == order[0] else self.score([*members, place], numbers)
            is_kept = place != order[0] and not self.metric.is_better(best, found)
            if shows:
                what = f"+ {self.paths[place]} (alone {alone[place]:.5f}, {'kept' if is_kept else 'left out'})"
                what = f"{self.paths[place]} (the best alone)" if place == order[0] else what
                print(f"  {found:.5f}  {what}", flush=True)
            if is_kept:
                members, best = [*members, place], found
        return members

    def build(self, members, number):
        """Return the soup of some runs' networks of a fold, on the device, in evaluation mode."""
        import torch

        from src.checkpointing.serialization import read_weights
        from src.competition.metadata import count_inputs
        from src.device import autocast
        from src.model.network import build_network
        from src.training.averaging import compute_mean_weights, refresh_batchnorm
        from src.training.engine import iterate_inputs
        from src.training.learner import build_transforms, choose_rows

        run, states = self.run, []
        for place in members:
            state = read_weights(self.folders[place].fold(number).weights(self.configs[place].train.select))
            states.append({name: one for name, one in state.items() if not name.startswith("auxiliary.")})
            shapes = [
                {name: tuple(tensor.shape) for name, tensor in state.items()} for state in (states[0], states[-1])
            ]
            if wrong := sorted(set(shapes[0].items()) ^ set(shapes[1].items())):
                found = f"its weights differ in shape from those of {self.paths[members[0]]} (first: {wrong[0][0]})"
                raise UserError(f"{self.paths[place]}: {found}; a soup needs runs of one network")
        num_targets = len(self.folders[members[0]].fold(number).load_target_names())
        num_metadata = count_inputs(run.table.encoding)
        network = build_network(run.config, num_targets, load_pretrained=False, num_metadata=num_metadata)
        network.load_state_dict(compute_mean_weights(states))
        network.place(run.device, run.config.train.channels_last).eval()
        moved = [name.removesuffix(".running_mean") for name in states[0] if name.endswith(".running_mean")
                 and not all(torch.equal(state[name], states[0][name]) for state in states)]  # fmt: skip
        if not moved or self._batchnorm == "average":
            return network
        network.requires_grad_(False)  # what is frozen keeps its statistics
        network.freeze_batchnorm = False
        for name in moved:
            network.get_submodule(name).requires_grad_(True)
        torch.manual_seed(run.config.seed)  # of dropout
        rows = choose_rows(run.config, number, run.table.folds)[0]
        how = {"transform": build_transforms(run.config, run.table)[0], "shuffle_seed": run.config.seed, "at_least": 2}
        loader = run.build_loader(rows, run.config.train.batch_size, **how)
        with autocast(run.device, run.config.precision):
            refresh_batchnorm(network, iterate_inputs(loader, 0, network.normalize, run.device))
        loader.close()
        return network.eval()


def judge(soups, members, nested):
    """Return what soup.json holds: members, scores with intervals and differences to the best run, sentences."""
    from src.evaluation.intervals import compare_scores, compute_verdict
    from src.evaluation.sampling import sample_scores

    oof, paths, every = soups.run.oof, soups.paths, soups.numbers
    probs = {"best": soups.predict(members[:1], every), "soup": soups.predict(members, every)}
    if nested is not None:
        probs["nested"] = probs["best"].copy()
        for number, chosen in nested.items():
            rows = oof.folds == number
            probs["nested"][rows] = soups.predict(chosen, [number])[rows]
    found = sample_scores(soups.metric, oof.targets, list(probs.values()), oof.groups)
    left_out = [path for place, path in enumerate(paths) if place not in members]
    result = {
        "metric": soups.metric.name,
        "members": [paths[one] for one in members],
        "left_out": left_out,
        "scores": {name: compare_scores(found, place) for place, name in enumerate(probs)},
    }
    best = paths[members[0]]
    if len(members) == 1:
        sentences = [f"no other run can be averaged with {best} without loss: the soup is {best} alone"]
    else:
        sentences = [
            f"the soup of {listing(result['members'])}, with members chosen by this score: {_compare(result, 'soup')}"
        ]
    if nested is not None and (len(members) > 1 or any(len(one) > 1 for one in nested.values())):
        gained = compute_verdict(result["scores"]["nested"]["difference_interval"], soups.metric.greater_is_better)
        verdict = {1: "better", 0: "no better beyond chance", -1: "worse"}[gained]
        sentences.append(
            f"with a fold's members chosen on the other folds it is {verdict}: {_compare(result, 'nested')}"
        )
    return result | {"sentences": sentences}


def _compare(result, name):
    from src.evaluation.intervals import describe_difference

    one, best = result["scores"][name], result["scores"]["best"]["score"]
    numbers = describe_difference(one["difference"], one["difference_interval"])
    return f"{result['metric']} {one['score']:.5f}, the best run alone {best:.5f} ({numbers})"


def write(soups, members, config, result):
    """Write the soup as a run: the files that train.py leaves, and soup.json."""
    import shutil

    import numpy as np

    from src.checkpointing.run_folder import RunFolder
    from src.checkpointing.serialization import copy_to_cpu, save_weights
    from src.competition.predictions import save_predictions
    from src.config.load import config_yaml
    from src.evaluation.metrics import log_loss
    from src.files import load_json, save_json, save_text
    from src.training.oof import score_run
    from src.training.run import Run

    source, folder, run, oof = soups.folders[members[0]], RunFolder(config.run_folder), soups.run, soups.run.oof
    probs = soups.predict(members, soups.numbers)
    save_text(folder.config, config_yaml(config))
    for name in ("folds", "execution", "metadata"):
        if getattr(source, name).is_file():
            shutil.copyfile(getattr(source, name), getattr(folder, name))
    for number in soups.numbers:
        rows, fold = oof.folds == number, folder.fold(number)
        table = run.table.take(np.flatnonzero(run.table.folds == number))
        save_weights(fold.weights(config.train.select), copy_to_cpu(soups.build(members, number).state_dict()))
        save_predictions(fold.val, table, probs[rows])
        score, loss = soups.metric.score(oof.targets[rows], probs[rows]), None
        if config.competition.task != "regression":
            loss = log_loss(oof.targets[rows], probs[rows], config.competition.task)
        metas = [load_json(soups.folders[one].fold(number).meta, "seconds") for one in members]
        scores = {"best_score": score, "last_score": score, "best_loss": loss}
        save_json(fold.meta, metas[0] | scores | {"seconds": sum(one["seconds"] for one in metas)})
    save_json(folder.soup, result)
    score_run(
        Run(
            config,
            folder,
            soups.metric,
            run.table,
            None,
            0,
            folds=sorted({int(one) for one in run.table.folds} - {-1}),
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
