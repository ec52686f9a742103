"""What the names in tables may lead to: never a file outside the competition's folder, never markup that is run."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from src.competition.tables import load_train_table
from src.config.settings import REPOSITORY, Competition
from src.errors import UserError
from tools.preview import draw_columns

OUTSIDE = ["../secret", "a/../../secret", "/etc/passwd", "//host/x", "C:\\x", "..\\secret", "\\\\host\\x", "..", "a/.."]
MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "$\\frac{$",
    "$x",
    "$\\input{/etc/passwd}$",
    "&amp;",
]


def competition_of(root, ids):
    (root / "train").mkdir(exist_ok=True)
    pd.DataFrame({"id": ids, "y": [0, 1]}).to_csv(root / "train.csv", index=False)
    return Competition(root=str(root), train_table="train.csv", train_image="train/{id}.png", targets=["y"])


@pytest.mark.parametrize("bad", OUTSIDE)
def test_an_id_that_leads_outside_is_refused(tmp_path, bad):
    root = tmp_path / "data"
    root.mkdir()
    for path in (tmp_path / "secret.png", root / "secret.png"):
        path.write_bytes(b"stub")
    competition = competition_of(root, ["good", bad])
    (root / "train/good.png").write_bytes(b"stub")
    with pytest.raises(UserError) as caught:
        load_train_table(competition)
    assert "would be outside this folder" in str(caught.value) or "ids have no image" in str(caught.value)


@pytest.mark.parametrize("name", ["~", "~root", "$HOME", "%s", "{id}", "a\\b", "-rf", "con"])
def test_other_signs_are_letters(tmp_path, name):
    competition = competition_of(tmp_path, ["good", name])
    for one in ("good", name):
        (tmp_path / "train" / f"{one}.png").write_bytes(b"stub")
    assert list(load_train_table(competition).paths)[1] == f"{tmp_path}/train/{name}.png"


def test_a_link_is_followed_as_data_folders_are_links_themselves(tmp_path):
    """Who can make a link in the folder could have put the file there; a table alone can make none."""
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    root.mkdir()
    (elsewhere / "a.png").write_bytes(b"stub")
    (elsewhere / "b.png").write_bytes(b"stub")
    os.symlink(elsewhere, root / "train")
    assert len(load_train_table(competition_of(root, ["a", "b"]))) == 2


@pytest.mark.parametrize("name", MARKUP)
def test_names_are_drawn_as_they_are(tmp_path, name):
    images = np.zeros((1, 8, 8, 3), np.uint8)
    draw_columns(tmp_path / "a.png", [("resized", images, [name])], name)
    assert (tmp_path / "a.png").stat().st_size > 0
    shown = pd.DataFrame({name: [1]}, index=[name])._repr_html_()  # as the notebook shows its tables
    assert "<script" not in shown
    assert "<img" not in shown


def test_the_notebook_shows_no_html_of_its_own():
    cells = json.loads((REPOSITORY / "notebooks/eda.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "".join(line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
    assert "HTML(" not in code
    assert "escape=False" not in code
    assert code.index('plt.rcParams["text.parse_math"] = False') < code.index("axis.barh")
