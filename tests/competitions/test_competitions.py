"""Ready competition files on folders in miniature, the whole way: adopt, doctor, train, infer, and the host's grade."""

import json
import os
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest

from src.config.load import load_config
from src.config.settings import REPOSITORY, Config, settings, value_of
from tests.competitions.folders import FOLDERS, write_competition
from tests.competitions.host import HOSTS, grade
from tests.launch import run_here
from tools.adopt.layout import recognise
from tools.bundle.__main__ import main as bundle
from tools.doctor.__main__ import main as doctor

FAST = ("siim-isic-melanoma-classification", "plant-pathology-2021-fgvc8", "rsna-breast-cancer-detection")
TINY = ["model.backbone=test_resnet", "model.pretrained=false", "model.kwargs={norm_layer: groupnorm1}",
        "image_size=32", "num_folds=2", "train.epochs=4", "train.batch_size=16", "optimizer.lr=4e-3",
        "optimizer.head_lr_factor=1", "tracking=none", "report=false", "threads=1", "precision=fp32",
        "train.channels_last=true", "train.num_workers=0"]  # fmt: skip

# What adopt cannot know, or decides otherwise: {setting: (adopt's, the ready file's)}. Left out: image_size, which
# follows the images, tiny ones here, and the metric, of which a folder tells little.
DIFFERENT = {
    # which it says beside the task: grades in order may as well be numbers
    "aptos2019-blindness-detection": {
        "targets": ([], ["diagnosis"]),
        "label": ("diagnosis", None),
        "classes": (list("01234"), []),
        "task": ("multiclass", "regression"),
        "resize": ("squash", "crop"),
    },
    # another series of the four, and more slices, than tiny ones have
    "rsna-miccai-brain-tumor-radiogenomic-classification": {
        "train_image": ("train/{BraTS21ID}/FLAIR/*.dcm", "train/{id}"),
        "test_image": ("test/{BraTS21ID}/FLAIR/*.dcm", "test/{id}"),
        "images": ("train/{BraTS21ID}/FLAIR/*.dcm", "train/{BraTS21ID}/T1wCE/*.dcm"),
        "num_images": (4, 16),
        "images_as": ("max", "attention"),
    },
    # a further folder for the images' newer names
    "planet-understanding-the-amazon-from-space": {
        "test_image": (
            [f"test-jpg{more}/{{image_name}}.jpg" for more in ("", "-additional")],
            [f"test-jpg{more}/{{image_name}}.jpg" for more in ("", "-additional", "-v2")],
        ),
    },
}
# what the doctor must find, whatever else it says
FINDINGS = {
    "siim-isic-melanoma-classification": [
        "note: column 'diagnosis' alone predicts 'target' with an AUC of 1.000",
        "note: column 'benign_malignant' alone predicts 'target' with an AUC of 1.000",
        "1 pairs of the same",
    ],
    "rsna-breast-cancer-detection": ["note: column 'biopsy' alone predicts 'cancer' with an AUC of 1.000"],
    "plant-pathology-2020-fgvc7": ["error: 1 pairs of the same training images with different labels"],
    "aptos2019-blindness-detection": ["error: 1 pairs of the same training images with different labels"],
    "planet-understanding-the-amazon-from-space": ["warning: 1 of 17 target columns have fewer than 5 rows"],
}
LEAST = {"roc_auc": 0.7, "partial_auc": 0.1, "quadratic_kappa": 0.3, "fbeta_samples": 0.2, "f1_probabilistic": 0.1}
HARD = ("ranzcr-clip-catheter-line-classification",)  # the others' brightness is the label


def _marked(names):
    return [pytest.param(name, marks=[] if name in FAST else pytest.mark.nightly) for name in names]


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


@pytest.mark.parametrize("name", _marked(FOLDERS))
def test_from_the_folder_to_the_hosts_grade(name, written):
    root, solution = written(name)
    solution.to_csv(root / "solution.csv", index=False)
    words = [f"competition={name}", *TINY]
    with chdir(root):
        doctor([*words, f"output={root}/doctor"])
    found = json.loads((root / "doctor/doctor.json").read_text())["findings"]
    found = [f"{one['severity']}: {one['title']}" for one in found]
    print(*found, sep="\n")
    assert [one for one in FINDINGS.get(name, ()) if not any(one in line for line in found)] == []
    run_here("train.py", *words, "name=run", cwd=root)
    run_here("infer.py", "run=outputs/run", f"competition.solution={root}/solution.csv", cwd=root)
    score = grade(name, root / "outputs/run/submission.csv", solution)
    own = json.loads((root / "outputs/run/test_score.json").read_text())
    print(own)
    assert score == pytest.approx(own["score"], abs=1e-9)
    assert score > LEAST.get(own["metric"], 0) * (name not in HARD)


@pytest.mark.nightly
@pytest.mark.parametrize("name", FOLDERS)
def test_its_bundle_writes_infers_submission_without_a_network(name, written, capsys):
    root, _ = written(name)
    run_here("train.py", f"competition={name}", *TINY, "train.epochs=2", "name=bundled", cwd=root)
    run_here("infer.py", "run=outputs/bundled", cwd=root)
    began = time.monotonic()
    with chdir(root):
        bundle(["outputs/bundled", "output=bundle", "wheels=none"])
    seconds = time.monotonic() - began
    began, command = time.monotonic(), ["bash", "bundle/infer.sh", f"data/{name}", "threads=1"]
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0:
        command = ["unshare", "-rn", *command]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    with capsys.disabled():
        print(f"\n{name}: bundle {seconds:.1f} s, offline run {time.monotonic() - began:.1f} s")
    assert (root / "submission.csv").read_bytes() == (root / "outputs/bundled/submission.csv").read_bytes()


@pytest.mark.nightly
@pytest.mark.parametrize("name", FOLDERS)
def test_its_recipe_trains(name, written):
    root, _ = written(name)
    own = ["model.head_first_epochs=0", "schedule.warmup_epochs=0.5", "train.epochs=2", "train.batches_per_epoch=null"]
    words = [f"competition={name}", f"recipe={name}", *TINY, *own, "model.freeze_batchnorm=null", "fold=0"]
    run_here("train.py", *words, "name=recipe", cwd=root)
    scores = json.loads((root / "outputs/recipe/scores.json").read_text())
    assert scores["metric"] == load_config(words).competition.metric


def test_every_competition_has_a_recipe_and_a_host():
    ready = {path.stem for path in (REPOSITORY / "configs/competition").glob("*.yaml")} - {"demo"}
    recipes = {path.stem for path in (REPOSITORY / "configs/recipe").glob("*.yaml")}
    assert ready == set(FOLDERS) == set(HOSTS)
    assert ready <= recipes
