"""A run folder -> every fold's model over each test batch once -> submission.csv."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

from src.checkpointing.run_folder import describe_changes
from src.checkpointing.serialization import load_weights
from src.competition.folds import count_folds
from src.competition.paths import check_not_empty
from src.competition.predictions import load_target_names, save_predictions
from src.competition.submission import load_sample, write_submission
from src.competition.tables import load_solution, load_test_table
from src.config.load import load_saved_config
from src.data.dataset import ImageDataset, build_loader
from src.data.transforms import build_resize
from src.data.unreadable import find_unreadable
from src.device import recall_execution, resolve_device, resolve_execution, share_cores
from src.errors import UserError
from src.evaluation.metrics import score
from src.files import delete_unfinished, load_json
from src.inference.ensemble import AVERAGES
from src.inference.tta import build_views
from src.locks import hold_output
from src.model.losses import probabilities
from src.model.network import build_network
from src.training.engine import predict


def infer_run(config, run_folder):
    """Predict the test images with all finished folds of a run; write submission.csv and fold<k>/test.csv.

    Of a run that was stopped in its first fold this fold is taken as far as it came.

    Args:
        config: the run's own, with infer.* as wanted now.
        run_folder: pathlib.Path of the run.

    Returns:
        The ensemble's score where the answers are at hand, else None.

    Raises:
        UserError: no fold has done an epoch; a test image, table or sample is wrong; the submission would be refused.
    """
    begun_with = load_saved_config(run_folder)
    folders, target_names = _find_folds(run_folder, config.infer.checkpoint)
    num_folds = count_folds(run_folder / "folds.csv")
    competition = config.competition
    device = resolve_device(config.device)
    num_workers = share_cores(device, config.train.num_workers)
    config = (recall_execution(run_folder, config, device) or resolve_execution(config, device)).settle(config)
    sample = load_sample(competition)
    table = load_test_table(competition, target_names)
    output = _open_output(config.infer.output or run_folder)
    if sample is not None and len(sample.columns) == 2 < len(target_names) and config.infer.average == "rank":
        raise UserError("infer.average=rank: ranks name no class, as the sample asks for; set infer.average=mean")
    views = build_views(config.infer.tta, config.image_size)
    folds = f"{len(folders)} folds" if len(folders) == num_folds else f"{len(folders)} of {num_folds} folds"
    print(f"{run_folder}: {len(table)} test images x {folds} x {1 + len(views)} views")

    is_readable = np.ones(len(table), dtype=bool)
    if config.unreadable == "skip":
        for row, reason in find_unreadable(table, competition.channels):
            is_readable[row] = False
            print(f"{table.ids[row]}: gets the mean prediction ({reason})")
    else:
        check_not_empty(table.paths)
    networks = [_load_network(config, folder, len(target_names), device) for folder in folders]
    _check_views(networks[0], views, config, device)
    dataset = ImageDataset(
        table.take(is_readable), competition.channels, build_resize(config.image_size), config.image_size, config.seed
    )
    loader = build_loader(dataset, config.eval_batch_size, num_workers)
    index, read_probs = predict(
        networks, loader, device, config.precision,
        partial(probabilities, task=competition.task), views=views, title="test",
    )  # fmt: skip
    loader.close()
    probs = np.repeat(read_probs.mean(axis=1, keepdims=True), len(table), axis=1)
    probs[:, np.flatnonzero(is_readable)[index]] = read_probs

    if not np.isfinite(probs).all():
        raise UserError(f"{run_folder}: predictions are nan; set precision=fp32")
    average = AVERAGES[config.infer.average](probs)
    path = output / "submission.csv"
    with hold_output(output):
        _check_still_there(run_folder, begun_with)
        for folder in (output, *(output / one.name for one in folders)):
            delete_unfinished(folder)
        write_submission(path, sample, competition, table.ids, average, target_names)
        for folder, one in zip(folders, probs, strict=True):
            save_predictions(output / folder.name / "test.csv", table, one)
    print(f"{path}: {len(table)} rows, checked")
    solution = load_solution(competition, table)
    if solution is None:
        return None
    test_score = score(solution, average, competition.metric)
    print(f"test {competition.metric}: {test_score:.5f}")
    return test_score


def _find_folds(run_folder, checkpoint):
    """Return (the folders of the folds to predict with, the names of the targets)."""
    finished = sorted(run_folder.glob("fold*/meta.json"))
    if finished:
        return [path.parent for path in finished], tuple(load_json(finished[0])["target_names"])
    begun = [path.parent for path in sorted(run_folder.glob("fold*/val.csv"))]
    if not begun:
        raise UserError(f"{run_folder}: no fold has done an epoch; go on with the command that trained it")
    if checkpoint != "best":
        raise UserError(f"{run_folder}: no fold is finished, so there are no last weights; set infer.checkpoint=best")
    names = ", ".join(folder.name for folder in begun)
    print(f"{run_folder}: no fold is finished; the best epoch so far is used ({names})")
    return begun, load_target_names(begun[0] / "val.csv")


def _check_still_there(run_folder, begun_with):
    """Check that the run is trained with the same settings as before: a deleted one's predictions go into no other."""
    if describe_changes(begun_with, load_saved_config(run_folder)):
        raise UserError(f"{run_folder}: was overwritten meanwhile; run the same command again when it is trained")


def _load_network(config, folder, num_targets, device):
    network = build_network(
        config.model, num_targets, config.competition.channels, config.image_size, load_pretrained=False
    )
    load_weights(folder / f"{config.infer.checkpoint}.safetensors", network)
    return network.place(device, config.train.channels_last).eval()


def _open_output(folder):
    """Return the folder for what will be written, made if missing; Kaggle's input folders cannot be written."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); set infer.output=FOLDER") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written; set infer.output=FOLDER")
    return folder


@torch.inference_mode()
def _check_views(network, views, config, device):
    """Try every view on one blank picture: some networks take pictures of one size only."""
    blank = torch.zeros(1, config.competition.channels, *config.image_size, device=device)
    for view in views:
        try:
            network(view(blank))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"infer.tta={config.infer.tta}: {config.model.backbone} cannot take it ({reason})"
            ) from None
