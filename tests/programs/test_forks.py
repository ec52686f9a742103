"""Each row of README's table "to change X, edit Y", made on a copy of the repository and run through its programs."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from src.competition.demo import write_demo
from src.config.settings import REPOSITORY
from tests.launch import TINY

# file, registry, name, what a fork writes before the dict, the entry
ENTRIES = [
    ("model/losses.py", "LOSSES", "my_loss",
     "def my_loss(logits, targets, power=2.0):\n    return (torch.sigmoid(logits) - targets).abs().pow(power).mean()",
     "my_loss"),
    ("evaluation/metrics.py", "METRICS", "my_metric",
     "def my_metric(targets, probs):\n    return np.abs(targets - probs).mean()",
     "Metric(my_metric, greater_is_better=False)"),
    ("model/backbone.py", "BACKBONES", "my_backbone",
     "def my_backbone(channels, image_size, width=8):\n"
     "    return nn.Sequential(nn.Conv2d(channels, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())",
     "my_backbone"),
    ("model/head.py", "HEADS", "my_head",
     "def my_head(num_features, num_targets, hidden=4):\n"
     "    return nn.Sequential(nn.Linear(num_features, hidden), nn.Tanh(), nn.Linear(hidden, num_targets))", "my_head"),
    ("data/augmentations.py", "AUGMENTATIONS", "my_augmentation",
     "def my_augmentation(share):\n    return A.InvertImg(p=share)", "my_augmentation"),
    ("data/samplers.py", "SAMPLERS", "my_sampler",
     "def my_sampler(targets, task):\n    return np.arange(1.0, len(targets) + 1)", "my_sampler"),
    ("training/optimizer.py", "OPTIMIZERS", "my_optimizer",
     "def my_optimizer(params, lr, weight_decay, dampening=0.1):\n"
     "    return torch.optim.SGD(params, lr=lr, momentum=0.9, dampening=dampening)", "my_optimizer"),
    ("training/schedule.py", "SCHEDULES", "my_schedule",
     "def my_schedule(optimizer, span, factor=0.5):\n"
     "    return lr_scheduler.LambdaLR(optimizer, lambda move: factor ** (move / span.moves))", "my_schedule"),
    ("training/averaging.py", "AVERAGES", "my_average",
     "class MyAverage(Average):\n"
     "    def __init__(self, network, total_epochs):\n        self.module = network", "MyAverage"),
    ("competition/splits.py", "SPLITS", "my_split",
     "def my_split(table, num_folds, seed):\n    return np.arange(len(table)) % num_folds", "my_split"),
    ("inference/tta.py", "VIEWS", "my_view", "def my_view(images):\n    return images.roll(1, 3)", "(my_view,)"),
    ("inference/ensemble.py", "ENSEMBLES", "my_ensemble",
     "def my_ensemble(probs):\n    return np.median(probs, axis=0)", "my_ensemble"),
    ("training/tracking.py", "TRACKERS", "logging",
     "class MyTracker:\n"
     "    def __init__(self, config):\n        self.logged = []\n\n"
     "    def log(self, curve, epoch, values):\n        self.logged.append((curve, epoch))\n\n"
     "    def finish(self, scores, figures, worst, page):\n        print('tracked', *self.logged)", "MyTracker"),
]  # fmt: skip
CHOSEN = [
    *("loss.name=my_loss", "loss.kwargs.power=1.5", "competition.metric=my_metric", "model.backbone=my_backbone"),
    *("model.kwargs={}", "model.kwargs.width=6", "model.head=my_head", "augment.kwargs.my_augmentation=0.3"),
    *("train.sampler=my_sampler", "optimizer.name=my_optimizer", "train.average=my_average"),
    *("schedule.name=my_schedule", "schedule.kwargs.factor=0.3", "folds=my_split", "train.my_setting=4"),
    "tracking=logging",  # a tracker's name is its package's
]


# several commands of one copy run in one process, which imports torch once
RUN = "import importlib, sys\nfor program, *words in {}:\n    importlib.import_module(program).main(words)"


@pytest.fixture
def fork(tmp_path):
    """A copy of the repository's programs and rooms; returns (its folder, run([program, *words], ...) -> stdout)."""
    for name in ("src", "configs", "train.py", "infer.py"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, tmp_path / name)

    def run(*commands):
        script = RUN.format(list(commands))
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
        return done.stdout

    return tmp_path, run


def replace(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def add_entry(folder, file, registry, name, code, entry):
    replace(folder / "src" / file, f"\n{registry} = {{", f'\n{code}\n\n\n{registry} = {{"{name}": {entry}, ')


@pytest.mark.slow
def test_one_function_and_one_entry_are_trained_predicted_with_and_listed(fork):
    folder, run = fork
    for entry in ENTRIES:
        add_entry(folder, *entry)
    last = '    compile: bool = setting(False, "torch.compile the network")\n'
    mine = '    my_setting: int = setting(3, "of my own", at_least=1)\n'
    replace(folder / "src/config/settings.py", last, last + mine)
    printed = run(
        ["train", "--help", "all"],
        ["train", *TINY, *CHOSEN],
        ["infer", "infer.tta=my_view", "infer.average=my_ensemble"],
    )
    listed = printed.partition("loading libraries")[0]
    assert [name for _, _, name, _, _ in ENTRIES if name not in listed] == []
    assert "train.my_setting=3\n      of my own (at least 1)\n" in listed
    scores = json.loads((folder / "outputs/demo_default/scores.json").read_text())
    oof = pd.read_csv(folder / "outputs/demo_default/oof.csv", dtype={"id": str})
    train = pd.read_csv(folder / "data/demo/train.csv", dtype=str)
    digits = [str(digit) for digit in range(10)]
    targets = (train["label"].to_numpy()[:, None] == np.array(digits)).astype(float)
    assert oof["fold"].tolist() == [row % 2 for row in range(len(oof))]
    assert scores["metric"] == "my_metric"
    assert scores["pooled"] == pytest.approx(np.abs(targets - oof[digits].to_numpy()).mean())
    for fold in (0, 1):  # lower is better
        log = pd.read_csv(folder / f"outputs/demo_default/fold{fold}/log.csv")
        assert scores["best"]["folds"][str(fold)] == log["val_score"].min()
    assert "x 2 folds x 2 views" in printed
    assert "tracked " + " ".join(f"({c!r}, {e})" for c in ("fold0", "fold1", "mean") for e in (1, 2)) in printed
    assert re.search(r"test my_metric: 0\.\d+", printed)


@pytest.mark.slow
def test_a_pooling_and_an_image_format(fork):
    folder, run = fork
    pooling = "class Median(nn.Module):\n    def forward(self, features):\n"
    pooling += "        return features.flatten(2).median(dim=2).values"
    add_entry(folder, "model/head.py", "POOLINGS", "median", pooling, "Median")
    decoder = (
        "def decode_raw(path, data, channels):\n"
        "    return np.frombuffer(data, np.uint8).reshape(8, 8, 1)"
    )  # fmt: skip
    add_entry(folder, "data/decode.py", "DECODERS", ".raw", decoder, "decode_raw")
    write_demo(folder / "data/demo")
    for path in (folder / "data/demo").glob("*/*.png"):
        path.with_suffix(".raw").write_bytes(Image.open(path).tobytes())
        path.unlink()
    images = ["competition.train_image=train/{id}.*", "competition.test_image=test/{id}.raw"]
    run(["train", *TINY, "model.pool=median", *images], ["infer"])
    assert (folder / "outputs/demo_default/submission.csv").is_file()


READ_METADATA = """inputs = {"image": str(self.table.paths[row])}
        inputs["meta"] = np.array([len(self.table.columns["site"][row]), row % 2], np.float32)
        return inputs"""
NETWORK_WITH_METADATA = '''    def forward(self, meta, features=None, **inputs):
        """Map normalised inputs, or features (N, D) that were extracted before, to logits (N, K)."""
        return self.head(self.extract_features(**inputs) if features is None else features) + self.meta(meta)
'''


@pytest.mark.slow
def test_metadata_beside_the_image_in_two_files(fork):
    """Through training, Mixup, CutMix, the cache, EMA, TTA, inference and the features of a frozen backbone."""
    folder, run = fork
    replace(folder / "src/data/dataset.py", 'return {"image": str(self.table.paths[row])}', READ_METADATA)
    network = folder / "src/model/network.py"
    replace(network, "        self.head = head\n", "        self.head = head\n        self.meta = nn.Linear(2, 10)\n")
    text = network.read_text()
    start, end = text.index("    def forward(self, features=None"), text.index("    @property\n    def pixel_stats")
    network.write_text(text[:start] + NETWORK_WITH_METADATA + "\n" + text[end:])
    write_demo(folder / "data/demo")
    for name in ("train", "test"):
        path = folder / f"data/demo/{name}.csv"
        table = pd.read_csv(path, dtype=str)
        table.assign(site=np.where(np.arange(len(table)) % 3 == 0, "here", "elsewhere")).to_csv(path, index=False)
    mixed = ["mix.prob=1", "train.average=ema", "cache=on", "optimizer.layer_decay=0.8"]
    save_file(timm.create_model("test_resnet", in_chans=1).state_dict(), folder / "w.safetensors")
    frozen = ["model.kwargs={}", "model.pretrained=true", "model.weights=w.safetensors", "model.freeze=head_only"]
    printed = run(
        ["train", *TINY, *mixed], ["infer", "infer.tta=hflip"],
        ["train", *TINY, *frozen, "name=frozen"], ["infer", "run=outputs/frozen"],
    )  # fmt: skip
    assert "x 2 folds x 2 views" in printed
    assert "features of 1437 images" in printed
    assert (folder / "outputs/frozen/submission.csv").is_file()


READ_TWO = """return {"image": str(self.table.paths[row]), "other": str(self.table.paths[row // 2])}"""
EXTRACT_TWO = '''    def extract_features(self, image, other):
        """Map two normalised images (N, C, H, W) to features (N, D)."""
        return self.backbone(image) - self.backbone(other)
'''


@pytest.mark.slow
def test_two_images_a_row_in_an_overridden_read(fork):
    folder, run = fork
    replace(folder / "src/data/dataset.py", 'return {"image": str(self.table.paths[row])}', READ_TWO)
    network = folder / "src/model/network.py"
    text = network.read_text()
    start, end = text.index("    def extract_features(self, image)"), text.index("    def forward(self, features=None")
    network.write_text(text[:start] + EXTRACT_TWO + "\n" + text[end:])
    run(["train", *TINY, "mix.prob=1", "cache=on"], ["infer", "infer.tta=d4"])
    assert (folder / "outputs/demo_default/submission.csv").is_file()
