"""Any CSV ends as a checked table or as one line: the training table, the sample, the folds, the solution."""

import csv
import io
import os
import string

import numpy as np
import pytest
from hypothesis import strategies as st

from src.competition.folds import check_folds, load_folds, make_folds
from src.competition.submission import check_sample, load_sample
from src.competition.tables import load_solution, load_test_table, load_train_table, read_table
from src.config.load import load_config
from src.config.settings import Competition, Config
from src.errors import UserError
from src.evaluation.metrics import build_metric
from tests.attacks.fuzzing import attack, attempt, how_many
from tools.adopt.competition_file import competition_yaml
from tools.adopt.layout import recognise

IDS = ["1", "2", "3", "10", "001", "한글", "a b", "a.b"]
ODD_CELLS = [
    *("", " ", "0", "1", "1.0", "0.5", "-1", "2", "nan", "NaN", "inf", "-inf", "1e999", "1e-400", "0x1", "1_0"),
    "\uff11",
    *("True", "no", "NA", "None", "null", "9" * 30, "9" * 400, "1e308", "=cmd()", "../x", "/etc/passwd"),
    "a/../b",
    *("x/y", "x\\y", "C:\\x", "~", "~/x", "*", "?", "[a]", "{id}", "{", "}", "%s", "\ufeff", "\u202e", "\x85"),
    "\u2028",
    *("\r", "\n", "\r\n", "a\nb", "\t", ";", ",", '"', '""', "'", "\x1b[2J", "\x07", "\udcff", "e\u0301", "é", "🦀"),
    *("<img src=x onerror=alert(1)>", "x" * 5000, "id", "fold", "y", "label", "\0"),
]  # fmt: skip
CELLS = st.sampled_from(IDS) | st.sampled_from(["0", "1"]) | st.sampled_from(ODD_CELLS) | st.text(max_size=4)
NAMES = st.sampled_from(["id", "y", "kind", "patient", "fold", "id", "y", "a", "b", "", " id", "ID", "\ufeffid", "y\n"])


def write(rows, quoting, **dialect):
    if quoting == csv.QUOTE_NONE:  # nor anything else that a reader would need
        return dialect["lineterminator"].join(dialect["delimiter"].join(row) for row in rows)
    text = io.StringIO()
    csv.writer(text, quoting=quoting, **dialect).writerows(rows)
    return text.getvalue()


@st.composite
def sound_tables(draw):
    """Tables in which nothing is wrong but perhaps a cell or two."""
    ids = draw(st.lists(st.sampled_from(IDS), min_size=2, max_size=8, unique=True))
    rows = [[one, str(place % 2), "ab"[place % 2], f"p{place // 2}", str(place % 2)] for place, one in enumerate(ids)]
    for _ in range(draw(st.integers(0, 2))):
        row, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, 4))
        rows[row][column] = draw(CELLS)
    return [["id", "y", "kind", "patient", "fold"], *rows]


ODD_TABLES = st.tuples(st.lists(NAMES, max_size=5), st.lists(st.lists(CELLS, max_size=5), max_size=6)).map(
    lambda one: [one[0], *one[1]]
)
TEXTS = st.builds(
    lambda rows, separator, ends, quoting, start: (
        start + write(rows, delimiter=separator, lineterminator=ends, quoting=quoting, escapechar="\\")
    ),
    sound_tables() | ODD_TABLES,
    st.sampled_from([",", ",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]),
    st.sampled_from(["", "", "\ufeff", "\n", " ", "\ufeff\ufeff"]),
)
CODECS = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1", "cp949"])


def change(content, place, new, length):
    place = place % (len(content) + 1)
    return content[:place] + new + content[place + length :]


SOUND = TEXTS.flatmap(lambda text: CODECS.map(lambda codec: text.encode(codec, errors="ignore")))
CHANGED = st.builds(
    change,
    SOUND,
    st.integers(0, 500),
    st.binary(max_size=3)
    | st.sampled_from([b'"', b"\0", b"\r", b"\n", b",", b"\xff", b"\xef\xbb\xbf", b"\x1a", b"\xed\xb3\xbf"]),
    st.integers(0, 3),
)  # fmt: skip
CONTENTS = SOUND | CHANGED | st.binary(max_size=40) | st.text(string.printable, max_size=40).map(str.encode)

SETTINGS = [
    {"targets": ["y"]},
    {"label": "kind", "group": "patient", "fold": "fold"},
    {"label": "kind", "task": "multiclass"},
    {"targets": ["y", "fold"], "task": "multilabel"},
    {"targets": ["y", "fold"], "task": "multiclass"},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    (folder / "images").mkdir()
    for name in IDS:
        (folder / "images" / f"{name}.png").write_bytes(b"stub")
    (folder / "good.csv").write_text("id,y,kind,patient,fold\n" + "".join(
        f"{name},{place % 2},{'ab'[place % 2]},p{place},{place % 2}\n" for place, name in enumerate(IDS)
    ))  # fmt: skip
    return folder


def check_train(root, content, settings):
    (root / "train.csv").write_bytes(content)
    competition = Competition(root=str(root), train_table="train.csv", train_image="images/{id}.png", **settings)
    table = attempt(load_train_table, competition)
    if table is None:
        return
    assert len(table) == len(table.paths) == len(table.targets) == len(set(table.ids))
    assert table.targets.shape == (len(table), len(table.target_names))
    assert np.isfinite(table.targets).all()
    assert table.targets.min() >= 0
    assert table.targets.max() <= 1
    inside = os.path.realpath(root / "images")
    assert all(os.path.realpath(path).startswith(inside) for path in table.paths)
    for name in ("roc_auc", "accuracy"):
        metric = build_metric(name, competition.task)
        for method in ("auto", "multilabel", "column"):
            folds = attempt(make_folds, table, method, 2, 0, metric)
            if folds is not None:
                assert len(folds) == len(table)
                attempt(check_folds, table, folds, metric)


def check_test(root, content):
    """A table as the sample, as the test rows and as the solution; and as a file of folds."""
    (root / "other.csv").write_bytes(content)
    good = Competition(
        root=str(root),
        train_table="good.csv",
        train_image="images/{id}.png",
        test_image="images/{id}.png",
        label="kind",
    )
    train = load_train_table(good)
    attempt(load_folds, Config(folds=str(root / "other.csv"), competition=good), train)
    for settings in ({"test_table": "other.csv"}, {"sample_submission": "other.csv"}):
        competition = Competition(**vars(good) | settings)
        sample = attempt(load_sample, competition)
        test = attempt(load_test_table, competition, train.target_names)
        if sample is not None and test is not None:
            attempt(check_sample, sample, competition, test, train.target_names)
    targets = attempt(load_solution, Competition(**vars(good) | {"solution": "other.csv"}), train)
    assert targets is None or (np.isfinite(targets).all() and targets.shape == (len(train), 1))


@how_many(200, 1500)
def test_any_training_table_is_read_or_one_line(root, num_inputs):
    attack(
        lambda one: check_train(root, *one), st.tuples(CONTENTS, st.sampled_from(SETTINGS)), num_inputs,
        found=[(content, SETTINGS[0]) for content in FOUND],
    )  # fmt: skip


@how_many(100, 1000)
def test_any_sample_solution_or_file_of_folds_is_read_or_one_line(root, num_inputs):
    attack(lambda content: check_test(root, content), CONTENTS, num_inputs, found=FOUND)


@how_many(20, 500)
def test_any_table_is_adopted_or_one_line(root, num_inputs):
    folder = root / "adopted"
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for name in IDS:
        (folder / "train" / f"{name}.png").write_bytes(b"stub")

    def check(content):
        (folder / "train.csv").write_bytes(content)
        layout = attempt(recognise, folder)
        if layout is not None:
            (root / "adopted.yaml").write_text(competition_yaml(layout, folder), encoding="utf-8")
            attempt(load_config, [f"competition={root / 'adopted.yaml'}"])

    attack(check, CONTENTS, num_inputs, found=FOUND)


# what was found to end in a traceback or in a wrong table
FOUND = [
    b"{id,y,kind\n1,0,a\n2,1,b\n",  # adopt took the column for one named id
]


def test_a_million_letters_in_a_cell(root):
    for cell in ("x" * 1_000_000, '"' + "a\n" * 500_000 + '"', "9" * 1_000_000):
        check_train(root, f"id,y\n1,0\n2,{cell}\n".encode(), SETTINGS[0])
        check_train(root, f"id,y\n1,0\n{cell},1\n".encode(), SETTINGS[0])
        check_train(root, f"id,{cell}\n1,0\n2,1\n".encode(), SETTINGS[0])
        check_test(root, f"id,kind\n1,0\n{cell},1\n".encode())


@pytest.mark.parametrize("text", ["id,id,y\n1,1,0\n2,2,1\n", "id,y,y\n1,0,0\n2,1,1\n"])
def test_columns_of_one_name_are_refused(root, text):
    (root / "twice.csv").write_text(text)
    with pytest.raises(UserError, match=r"two columns are named '(id|y)'; rename one"):
        read_table(root / "twice.csv")
