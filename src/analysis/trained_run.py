"""A run in hand, for notebooks: `from src import train, infer, open_run`; what they return shows itself.

    run = train("competition=pneumonia", "fold=0")  # the words of the command line
    run.oof                                          # a DataFrame of out-of-fold predictions
    run.show_errors()                                # the hardest images, and where the network looks

Within the project's folder, notebooks/ for example, relative paths are those of the project; elsewhere those of the
working directory, as for train.py: outputs go into its folder `outputs`.
"""

import contextlib
import html
import io
import os
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from src.analysis.errors import find_errors
from src.analysis.labels import describe_targets, fit_caption, list_class_names
from src.checkpointing.run_folder import RunFolder, load_run
from src.competition.predictions import load_predictions
from src.config.load import load_config, load_saved_config, split_seeds
from src.config.settings import REPOSITORY
from src.errors import Stopped, UserError, listing

# IPython asks an exception for this; else a typo is answered by a page of traceback
UserError._render_traceback_ = lambda self: [f"UserError: {self}"]
Stopped._render_traceback_ = lambda self: [f"{str(self).strip()} (the same cell)"]


def train(*words):
    """Train as `python train.py *words` does, in this process; return the TrainedRun, of seed=[1,2,3] a list of them.

    A fold that is finished is not trained again, and one that was stopped resumes.

    Raises:
        UserError: the words, tables, images or weights are wrong.
        Stopped: by the notebook's stop button (Ctrl-C) or time_budget; the work is saved, the same call resumes.
    """
    with contextlib.chdir(_find_base()):
        commands = split_seeds([str(word) for word in words])
        configs = [load_config(one) for one in commands]
        from src.training.tracking import import_early  # here, since these take seconds and a typo should not

        import_early(configs[0].tracking)
        from src.training.seeds import train_runs

        train_runs(configs, commands)
        runs = [TrainedRun(Path(one.run_folder).resolve(), one, Path.cwd()) for one in configs]
    return runs if len(runs) > 1 else runs[0]


def infer(run=None, *words):
    """Predict the test images and write submission.csv, as `python infer.py` does; return the TrainedRun.

    Args:
        run: a TrainedRun, a run's folder, or a word of the command line; None: the newest run.
        words: such as "infer.tta=hflip".

    Raises:
        UserError: as of infer.py.
    """
    is_word = isinstance(run, str) and "=" in run and not os.path.isdir(run)
    words = [*([run] if is_word else []), *words]
    if run is not None and not is_word:
        words.insert(0, f"run={run.folder if isinstance(run, TrainedRun) else _locate(run)}")
    base = run.base if isinstance(run, TrainedRun) else _find_base()
    with contextlib.chdir(base):
        folder, config = load_run(words)
        from src.inference.predict import infer_run

        infer_run(config, folder)
        return TrainedRun(folder.resolve(), config, base)


def open_run(folder, *words):
    """Return the TrainedRun of a folder of train.py, a blend or a soup.

    Args:
        words: settings of how it runs now, such as "device=cpu" or "competition.root=/kaggle/input/x".
    """
    path = _locate(folder)
    config, base = load_saved_config(path, words), _find_base()
    root = config.competition.root
    homes = [home for home in (base, path.parent.parent) if root and (home / root).is_dir()]
    return TrainedRun(path, config, homes[0] if homes else base)


def _find_base():
    """Return the folder that relative paths are of: the project's within it, else the working directory."""
    here = Path.cwd().resolve()
    return REPOSITORY if here.is_relative_to(REPOSITORY.resolve()) else here


def _locate(folder):
    """Return the absolute path of a run's folder that is named from here, or from the project."""
    path = Path(folder).expanduser()
    return path.resolve() if path.exists() else (_find_base() / path).resolve()


class TrainedRun:
    """What a run has left, read from its folder whenever it is asked for; `train`, `infer` and `open_run` return it.

    Attributes:
        folder: its absolute path.
        config: config.settings.Config.
        base: the folder that relative paths of its settings, such as competition.root, are of.
    """

    def __init__(self, folder, config, base):
        self.folder, self.config, self.base = Path(folder), config, Path(base)
        self._files = RunFolder(self.folder)
        self._output = self.base / config.infer.output if config.infer.output else self.folder

    def __repr__(self):
        return f"TrainedRun({str(self.folder)!r}): {self._describe_score()}"

    def _repr_html_(self):
        parts = [f"<h3>{html.escape(self.folder.name)}</h3>", f"<p>{html.escape(self._describe_score())}</p>"]
        if (scores := self.scores).get("folds"):
            intervals, seconds = scores.get("fold_intervals", {}), scores.get("seconds_per_fold", {})
            rows = [
                {
                    "fold": fold,
                    scores["metric"]: f"{score:.5f}",
                    "95 %": "{:.5f} to {:.5f}".format(*intervals[fold]) if intervals.get(fold) else "",
                    "seconds": f"{seconds[fold]:.1f}" if fold in seconds else "",
                }
                for fold, score in scores["folds"].items()
            ]
            parts.append(pd.DataFrame(rows).to_html(index=False, border=0))
        if len(self.log):
            from src.analysis.figures import save_svg

            svg = save_svg(self._draw_curves())
            parts.append(f'<div style="max-width: 720px">{svg}</div>')
        parts.append(f"<p><code>{html.escape(str(self.folder))}</code></p>")
        return "\n".join(parts)

    @property
    def scores(self):
        """What scores.json holds, a dict (the README lists it); {} before a fold is finished."""
        import json

        return json.loads(self._files.scores.read_text(encoding="utf-8")) if self._files.scores.is_file() else {}

    @property
    def oof(self):
        """Out-of-fold predictions, a DataFrame: id, fold, target_<name>, and the probability of each name."""
        if not self._files.oof.is_file():
            raise UserError(f"{self.folder}: no fold is finished; train it with the words that began it")
        return _read_table(self._files.oof)

    @property
    def test(self):
        """Test predictions as they are before infer.py makes a submission of them, a DataFrame: id, and each name.

        The mean over the folds, as infer.average says; None before `infer`.
        """
        from src.inference.ensemble import ENSEMBLES

        wanted = {"folds": "fold[0-9]*", "all": "foldall", "both": "fold*"}[self.config.infer.folds]
        paths = [self._files.test] if self._files.made_by.is_file() else sorted(self._output.glob(f"{wanted}/test.csv"))
        paths = paths or sorted(self._output.glob("foldall/test.csv"))
        paths = [path for path in paths if path.is_file()]
        if not paths:
            return None
        ids = _read_table(paths[0])["id"]
        names = list(_read_table(paths[0]).columns[1:])
        probs = ENSEMBLES[self.config.infer.average](np.stack([load_predictions(one, ids, names) for one in paths]))
        return pd.concat([ids, pd.DataFrame(probs, columns=names)], axis=1)

    @property
    def submission(self):
        """submission.csv as a DataFrame; None before `infer`."""
        path = RunFolder(self._output).submission
        return pd.read_csv(path, dtype={0: str}, keep_default_na=False) if path.is_file() else None

    @property
    def folds(self):
        """folds.csv, a DataFrame: id, fold, group where there is one, and the targets."""
        return _read_table(self._files.folds)

    @property
    def log(self):
        """Every fold's log.csv, a DataFrame with a row per epoch, its first column the fold; empty without any."""
        paths = sorted(self.folder.glob("fold*/log.csv"))
        logs = [pd.read_csv(path).assign(fold=path.parent.name.removeprefix("fold")) for path in paths]
        if not logs:
            return pd.DataFrame({"fold": [], "epoch": []})
        log = pd.concat(logs, ignore_index=True)
        if log["fold"].str.isdecimal().all():
            log["fold"] = log["fold"].astype(int)
        return log[["fold", *(name for name in log if name != "fold")]]

    def report(self):
        """Write report.html anew and return its path; None where the tool is not there or fails, which it prints."""
        from src.report import write_report

        with contextlib.chdir(self.base):
            return write_report(replace(self.config, report=True), self.folder)

    def model(self, fold=None):
        """Return the network of a fold, None: the first, or "all", in evaluation mode on the device.

        network(**network.normalize(run.load_inputs(ids))) are logits (N, K), of regression values.
        """
        from src.checkpointing.serialization import load_network
        from src.device import resolve_device

        trained = [one for one in self._files.started_folds() if one.number != "all"]
        trained += [self._files.fold("all")] if self._files.fold("all").is_finished() else []
        numbers = [one.number for one in trained]
        fold = int(fold) if str(fold).isdecimal() else fold
        if not numbers or fold not in (None, *numbers):
            have = f"has no network of fold {fold} (there are {listing(numbers)})" if numbers else "has no networks"
            raise UserError(f"{self.folder}: {have}; train it, or open another run")
        place = trained[numbers.index(fold) if fold is not None else 0]
        network = load_network(self.config, place)
        return network.place(resolve_device(self.config.device), self.config.train.channels_last)

    def predict(self, images, fold=None, metadata=None):
        """Return probabilities (N, K), float64, of images: paths, or arrays (H, W, C) as decoding gives them.

        fold: the network that predicts; None: the mean of all folds', as infer.py averages them. They are resized and
        normalised as in training. Of images that the run was trained on only the fold that left them out is honest.
        metadata: a DataFrame with the columns of competition.metadata and a row for each image.
        """
        from src.competition.metadata import encode
        from src.data.dataset import build_loader, is_image_input
        from src.data.transforms import build_resize
        from src.inference.ensemble import ENSEMBLES
        from src.model.losses import probabilities
        from src.training.engine import predict
        from src.training.execution import recall_precision

        images = [images] if isinstance(images, (str, os.PathLike)) else list(images)
        images = [os.path.abspath(one) if isinstance(one, (str, os.PathLike)) else np.asarray(one) for one in images]
        channels = self.config.competition.row_channels
        images = [one[..., None] if not isinstance(one, str) and one.ndim == 2 else one for one in images]
        for one in images:
            if not is_image_input(one) or (not isinstance(one, str) and one.shape[2] != channels):
                found = f"{type(one).__name__} {getattr(one, 'shape', '')} {getattr(one, 'dtype', '')}".strip()
                advice = f"arrays (height, width, {channels}) of uint8 or float32, as decoding gives them"
                raise UserError(f"predict: {found} is no image; give paths, or {advice}")
        if not images:
            raise UserError("predict: no image is given; give paths, or arrays")
        names, rows = self.config.competition.metadata, pd.DataFrame(metadata)
        if names and len(rows) != len(images):
            found = f"{len(rows)} rows of metadata for {len(images)} images"
            raise UserError(f"predict: {found}; give a DataFrame of {listing(names)}")
        metadata, _ = encode(self._files.load_encoding(self.config.competition), rows.map(str), "predict", "give it")
        finished = [one.number for one in self._files.finished_folds()] if fold is None else []
        networks = [self.model(number) for number in finished or [fold]]
        device = networks[0].pixel_mean.device
        precision = recall_precision(self._files, self.config, device)
        dataset = _list_dataset(images, self.config, build_resize(self.config), metadata)
        loader = build_loader(dataset, self.config.eval_batch_size, num_workers=0)
        to_probs = partial(probabilities, task=self.config.competition.task)
        return ENSEMBLES["mean"](predict(networks, loader, to_probs, precision)[1])

    @cached_property
    def table(self):
        """The training table, a competition.tables.ImageTable, in the order of the competition's file."""
        from src.competition.demo import write_demo
        from src.competition.tables import load_train_table

        with contextlib.chdir(self.base):
            if self.config.competition.name == "demo":
                write_demo(self.config.competition.root)
            encoding = self._files.load_encoding(self.config.competition)
            return load_train_table(self.config.competition, encoding=encoding)

    def load_inputs(self, ids):
        """Return {name: tensor (N, ...)} of training rows by id, raw images (N, H, W, C) as validation sees them.

        `model(fold).normalize` takes them.
        """
        from src.competition.targets import match_ids
        from src.data.dataset import ImageDataset, build_loader
        from src.data.transforms import build_resize

        rows, missing, _ = match_ids(list(ids), self.table.ids)
        if len(missing):
            raise UserError(f"{self.folder}: {len(missing)} ids are not in its training table (first: {missing[0]})")
        if not len(rows):
            raise UserError(f"{self.folder}: no id is given; name some of run.table.ids")
        config = self.config
        dataset = ImageDataset(self.table.take(rows), config.competition, build_resize(config), config.seed)
        with contextlib.chdir(self.base):
            return next(build_loader(dataset, len(rows), num_workers=0).batches(0))["inputs"]

    def find_errors(self, count=12, by="loss"):
        """Return the rows that are most wrong out of fold, a DataFrame; see analysis.errors.find_errors."""
        return find_errors(self, count, by)

    def compute_saliency(self, errors):
        """Return for each row of `find_errors` a map (h, w) in [0, 1] of what made its fold's network say so, or None.

        None where a fold has no network, as of a blend, or no feature map.
        """
        from src.analysis.saliency import compute_saliency

        num_images = self.config.competition.row_channels // self.config.competition.channels
        maps, trained = [None] * len(errors), {one.number for one in self._files.started_folds()}
        for fold, rows in errors.reset_index(drop=True).groupby("fold"):
            if fold in trained:
                inputs = self.load_inputs(rows["id"])
                places = rows["column"].to_numpy(), rows["sign"].to_numpy()
                found = compute_saliency(self.model(fold), inputs, *places, num_images=num_images)
                for row, one in zip(rows.index, found if found is not None else [], strict=found is not None):
                    maps[row] = one
        return maps

    def show_curves(self):
        """Return a figure of training and validation loss, and the validation score, over epochs."""
        if not len(self.log):
            raise UserError(f"{self.folder}: has no log of epochs; train it, or open a run instead of a blend")
        return _shown(self._draw_curves())

    def show_batch(self, count=18, epoch=0):
        """Return a figure of training images as an epoch (from 0) sees them, with labels; of each class one first."""
        from src.analysis.batches import choose_rows, compute_columns, to_uint8
        from src.analysis.figures import draw_images

        with contextlib.chdir(self.base):
            table = self.table.take(choose_rows(self.table, count, self.config.seed))
            columns, _ = compute_columns(self.config, table, num_augmented=epoch + 1)
        _, images, captions = columns[-1]
        return _shown(draw_images([to_uint8(one) for one in images], [fit_caption(one, 22) for one in captions]))

    def show_images(self, ids, captions=None):
        """Return a figure of training rows by id, as validation sees them; captions: None: id and label."""
        if captions is None:
            from src.competition.targets import match_ids

            names = list_class_names(self.config.competition, self.table.target_names)
            targets = self.table.targets[match_ids(list(ids), self.table.ids)[0]]
            labels = [describe_targets(one, names, self.table.task) for one in targets]
            captions = [f"{id_}\n{label}" for id_, label in zip(ids, labels, strict=True)]
        return self._draw(ids, captions)

    def _draw(self, ids, captions, maps=None):
        from src.analysis.batches import join_images, to_uint8
        from src.analysis.figures import draw_images

        images = [to_uint8(one) for one in join_images(self.load_inputs(ids), self.config.competition.channels)]
        return _shown(draw_images(images, [_fit_lines(one) for one in captions], maps))

    def show_errors(self, count=12, by="loss", saliency=True):
        """Return a figure of the images that are most wrong out of fold: id, label, prediction, and where it looked.

        by: "loss", or "confidence": the most confidently wrong ones.
        """
        errors = self.find_errors(count, by)
        if not len(errors):
            raise UserError(f"{self.folder}: no row is wrong by {by}; show_errors(by='loss') shows the hardest ones")
        maps = self.compute_saliency(errors) if saliency else None
        return self._draw(errors["id"], [_describe_error(one) for one in errors.to_dict("records")], maps)

    def _draw_curves(self):
        from src.analysis.figures import draw_curves

        return draw_curves(self.log, self.config.competition.metric)

    def _describe_score(self):
        scores = self.scores
        if not scores.get("folds") and scores.get("pooled") is None:
            return "no fold is finished"
        interval = scores.get("interval")
        interval = ", 95 % {:.5f} to {:.5f}".format(*interval) if interval else ""
        count = len(scores.get("folds", ()))
        count = f", {count} fold{'s' * (count > 1)}" if count else ""
        return f"out-of-fold {scores['metric']} {scores['pooled']:.5f}{interval}{count}"


def _describe_error(row):
    """Return the caption of a row of `find_errors`, three short lines."""
    sureness = "" if np.isnan(row["confidence"]) else f" ({row['confidence']:.2f})"
    lines = [row["id"], f"label: {row['label']}", f"predicted: {row['predicted']}{sureness}"]
    return "\n".join(lines)


def _fit_lines(caption):
    """Cut each line of a caption to the width of an image, in its middle."""
    return "\n".join(fit_caption(f"{line}\n", 26).rstrip("\n") for line in caption.split("\n"))


def _list_dataset(images, config, transform, metadata):
    """Return an ImageDataset of paths and arrays, which belong to no table, and their metadata (N, M), None: none."""
    from src.competition.tables import ImageTable
    from src.data.dataset import ImageDataset

    class ImageList(ImageDataset):
        def read(self, row):
            return super().read(row) | {"image": self.table.paths[row]}

    table = ImageTable(np.arange(len(images)).astype(str), images, None, (), None, None, metadata=metadata)
    return ImageList(table, config.competition, transform, config.seed)


def _read_table(path):
    """Read a table of a run: the column id as text, whatever it looks like, and only empty cells as missing."""
    names = pd.read_csv(path, nrows=0).columns
    missing = {name: [""] for name in names if name not in ("id", "group")}
    types = {name: str for name in ("id", "group") if name in names}
    return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing)


def _shown(figure):
    """Return a figure that a notebook draws, whether or not pyplot has told it how."""
    figure._repr_png_ = partial(_draw_png, figure)
    return figure


def _draw_png(figure):
    from src.analysis.figures import save_png

    file = io.BytesIO()
    save_png(figure, file)
    return file.getvalue()
