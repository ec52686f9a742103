"""fastai's vision learner, as in its documentation."""

import torch
from fastai.callback.all import *  # noqa: F403  adds methods to Learner, as fastai.vision.all does
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.metrics import RocAucBinary
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, ResizeMethod, aug_transforms
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner

from benchmarks.systems.task import run_as_program


class TimerCallback(Callback):
    """Calls the timer."""

    def __init__(self, timer):
        self.timer = timer

    def before_train(self):
        self.timer.start_batches()

    def after_train(self):
        self.timer.end_batches()

    def after_epoch(self):
        self.timer.end_epoch()


def run(task, timer):
    """Train all layers in one cycle, the head at ten times the rate of the input, as ours does."""
    set_seed(task.seed)
    is_cuda = task.device != "cpu" and torch.cuda.is_available()
    num_workers = task.choose("num_workers", 1)
    precision = task.choose("precision", "bf16" if is_cuda else "fp32")
    channels_last = task.choose("channels_last", False)
    rows = task.rows()
    dls = ImageDataLoaders.from_df(
        rows.assign(is_val=rows["fold"] == 0),
        path=task.images,
        fn_col="id",
        label_col="label",
        valid_col="is_val",
        item_tfms=Resize(task.image_size, method=ResizeMethod.Squish),
        batch_tfms=aug_transforms(
            max_rotate=15, min_zoom=0.85, max_zoom=1.2, max_lighting=0.2, max_warp=0, p_affine=0.9, p_lighting=0.5
        ),
        bs=task.batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        device=torch.device("cuda" if is_cuda else "cpu"),
    )
    arguments = {"pretrained": False} | task.timm_arguments
    learn = vision_learner(dls, task.backbone, metrics=RocAucBinary(), path=".", **arguments)
    learn.add_cbs([TimerCallback(timer), *([ChannelsLast()] if channels_last else [])])
    if precision == "bf16":
        learn.to_bf16()
    learn.unfreeze()
    with learn.no_bar():
        learn.fit_one_cycle(task.epochs, slice(3e-4, 3e-3))
    return {
        "num_images": len(dls.train_ds),
        "auc": float(learn.recorder.values[-1][-1]),
        "precision": precision,
        "channels_last": channels_last,
        "num_workers": num_workers,
    }


if __name__ == "__main__":
    run_as_program(run)
