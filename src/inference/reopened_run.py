"""A trained run reopened by tools: what networks, its own or made of them, predict for its folds' validation rows."""

from dataclasses import replace
from functools import partial

import numpy as np

from src.checkpointing.run_folder import RunFolder
from src.competition.tables import load_train_table, read_table
from src.competition.targets import match_ids
from src.data.cache import open_cache
from src.data.dataset import ImageDataset, build_loader
from src.data.transforms import build_resize
from src.device import resolve_device, share_cores
from src.errors import UserError, listing
from src.evaluation.out_of_fold import load_out_of_fold
from src.model.losses import probabilities
from src.training.engine import advise_on_nan, predict
from src.training.execution import recall_precision


class ReopenedRun:
    """A run's finished folds, their rows, and how it runs now.

    Args:
        config: the run's own, changed by what may differ at inference (`load_run`).
        run_folder: its path.
        num_passes: how often all images will be read; decoded ones are kept where that pays.
    """

    def __init__(self, config, run_folder, num_passes=1):
        self.folder = RunFolder(run_folder)
        if not self.folder.finished_folds():
            raise UserError(f"{run_folder}: no fold is finished; finish it with the command that trained it")
        self.oof = load_out_of_fold(self.folder.oof, self.folder.folds)
        self.folds = [self.folder.fold(int(number)) for number in np.unique(self.oof.folds)]
        self.table = _load_rows(config.competition, self.folder)
        is_judged = np.isin(self.table.folds, self.oof.folds)
        if not np.array_equal(self.table.ids[is_judged], self.oof.ids):
            raise UserError(f"{self.folder.oof}: holds other rows than folds.csv; repeat the command that trained it")
        if not np.allclose(self.table.targets[is_judged], self.oof.targets, equal_nan=True):
            raise UserError(f"{self.folder.oof}: holds other targets than the competition's table now; train it anew")
        self.device = resolve_device(config.device)
        self._num_workers, self._guard = share_cores(self.device, config.train.num_workers, config.threads)
        self.config = replace(config, precision=recall_precision(self.folder, config, self.device))
        self._resize = build_resize(config)
        paths = ImageDataset(self.table, config.competition, None, config.seed).list_paths()
        size = self._resize.decode_size
        cache = None if size is None else open_cache(paths, self.config, size, num_passes * len(paths))
        self._caches = {} if cache is None else {size: cache}

    def build_loader(self, rows, batch_size=None, transform=None, **more):
        """Return the Loader of some of the table's rows (int), as validation sees them, or by another transform."""
        dataset = ImageDataset(
            self.table.take(rows), self.config.competition, transform or self._resize, self.config.seed, self._caches
        )
        return build_loader(dataset, batch_size or self.config.eval_batch_size, self._num_workers, **more)

    def predict_fold(self, networks, number, title=""):
        """Return what M networks on the device predict, (M, N, C), for the N rows that fold `number` validates."""
        loader = self.build_loader(np.flatnonzero(self.table.folds == number))
        to_probs = partial(probabilities, task=self.config.competition.task)
        how = {"title": title, "after_batch": self._guard.after_step}
        index, probs = predict(networks, loader, to_probs, self.config.precision, **how)
        loader.close()
        if not np.isfinite(probs).all():
            raise UserError(
                f"{self.folder.path}: predictions are nan; {advise_on_nan(self.config.precision, 'train it again')}"
            )
        return probs[:, np.argsort(index)]


def _load_rows(competition, folder):
    """Return the ImageTable of a run's rows, in the order of its folds.csv, with the folds that are written there."""
    table = load_train_table(competition, encoding=folder.load_encoding(competition))
    saved = read_table(folder.folds)
    places, missing, _ = match_ids(saved["id"].to_numpy(dtype=str), table.ids)
    if len(missing):
        found = (
            f"{len(missing)} of its {len(saved)} rows are not among the competition's (first: {listing(missing, 1)})"
        )
        raise UserError(f"{folder.folds}: {found}; bring back the table and images that the run was trained on")
    return replace(table.take(places), folds=saved["fold"].to_numpy(dtype=np.int64))
