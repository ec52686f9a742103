"""Ready competition files on folders in miniature, the whole way: adopt, doctor, train, infer, and the host's grade."""

import json
from contextlib import chdir

import pandas as pd
import pytest

from src.config.load import load_config
from src.config.settings import REPOSITORY, Config, settings, value_of
from tests.competitions.folders import FOLDERS, write_competition
from tests.competitions.host import grade
from tests.launch import run_here
from tools.adopt.layout import recognise
from tools.doctor.__main__ import main as doctor

FAST = ("siim-isic-melanoma-classification", "plant-pathology-2021-fgvc8", "rsna-breast-cancer-detection")
TINY = ["model.backbone=test_resnet", "model.pretrained=false", "image_size=32", "num_folds=2", "train.epochs=2",
        "train.batch_size=16", "model.freeze_batchnorm=null", "tracking=none", "report=false", "threads=1",
        "precision=fp32", "train.channels_last=true", "train.num_workers=0"]  # fmt: skip

# What adopt cannot know, or decides otherwise: {setting: (adopt's, the ready file's)}; image_size depends on the images,
# which are tiny here, and the metric is the host's.
DIFFERENT = {}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function: a competition's name -> (the folder that holds data/<name>, the host's solution), written once."""
    known = {}

    def write(name):
        if name not in known:
            root = tmp_path_factory.mktemp("host")
            known[name] = root, write_competition(name, root)
        return known[name]

    return write


@pytest.mark.parametrize("name", FOLDERS)
def test_what_adopt_decides_is_the_ready_file(name, written):
    root, _ = written(name)
    with chdir(root):
        layout = recognise(f"data/{name}")
    ready, found = load_config([f"competition={name}"]), {}
    for key in (one for one in settings() if one.startswith("competition.") or one in ("normalize", "resize")):
        if key in ("competition.name", "competition.metric", "competition.metric_kwargs"):
            continue
        adopted = layout.settings[key][0] if key in layout.settings else value_of(Config(), key)
        if adopted != value_of(ready, key):
            found[key.removeprefix("competition.")] = adopted, value_of(ready, key)
    assert found == DIFFERENT.get(name, {})
    assert [one for one in layout.doubts if "no image" in one] == []
