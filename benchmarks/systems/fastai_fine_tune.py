"""fastai's `fine_tune` with its defaults on a competition's folder: a first epoch of the head, three of all layers.

python -m benchmarks.systems.fastai_fine_tune FOLDER WEIGHTS.safetensors OUTPUT.csv [seed]
"""

import sys
from pathlib import Path

import pandas as pd
import torch
from fastai.callback.all import *  # noqa: F403  adds methods to Learner, as fastai.vision.all does
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.transforms import ColReader, RandomSplitter
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner

_SIZE = 128


def main(folder, weights, output, seed="0"):
    folder, weights = Path(folder), Path(weights)
    set_seed(int(seed), reproducible=True)
    sample = pd.read_csv(folder / "sample_submission.csv")
    rows, names = pd.read_csv(folder / "train.csv"), list(sample.columns[1:])
    if "label" not in rows:
        is_exclusive = len(names) > 1 and (rows[names].sum(axis=1) == 1).all()
        if is_exclusive:
            rows["label"] = rows[names].idxmax(axis=1)
        elif len(names) == 1:
            rows["label"] = rows[names[0]]
    is_multilabel = "label" not in rows
    rows["file"] = [str(folder / "train" / f"{one}.png") for one in rows["id"]]
    blocks = MultiCategoryBlock(encoded=True, vocab=names) if is_multilabel else CategoryBlock()
    block = DataBlock(
        blocks=(ImageBlock, blocks),
        get_x=ColReader("file"),
        get_y=ColReader(names if is_multilabel else "label"),
        splitter=RandomSplitter(0.2, seed=int(seed)),
        item_tfms=Resize(_SIZE),
        batch_tfms=aug_transforms(),
    )
    dls = block.dataloaders(rows, bs=32, num_workers=1, device=torch.device("cpu"))
    overlay = {"pretrained_cfg_overlay": {"file": str(weights)}}
    learn = vision_learner(dls, weights.stem, pretrained=True, path=".", n_out=None, **overlay)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(3)
        test = [str(folder / "test" / f"{one}.png") for one in sample["id"]]
        probs = learn.get_preds(dl=dls.test_dl(test))[0].numpy()
    if is_multilabel:
        sample[names] = probs
    else:
        vocab = [str(one) for one in dls.vocab]
        sample[names] = probs[:, 1:] if len(names) == 1 else probs[:, [vocab.index(name) for name in names]]
    sample.to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
