"""The pages of tools in a real Chromium, at 1280 and 400 px, light and dark: nothing is cut, lost or hard to read."""

import shutil

import cv2
import numpy as np
import pytest

from tests.browser import find_browser, find_faults, open_browser, open_page
from tests.tools.doctor.conftest import clean_folder, clinic  # noqa: F401, the fixtures
from tests.tools.report.conftest import write_run  # noqa: F401
from tools.doctor.__main__ import main as run_doctor
from tools.report.__main__ import main as run_report

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not find_browser(), reason="no Chromium: pip install playwright, playwright install chromium"),
]
EVIL = "<img src=x onerror=alert(1)> & a name that is a good deal longer than a phone is wide " + "0123456789" * 9


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def test_faults_are_seen(browser, tmp_path):
    """Each by its own sentence, so that a page without faults means something."""
    path = tmp_path / "bad.html"
    path.write_text(
        """<!doctype html><link rel="icon" href="data:,"><style>body { background: #fff; margin: 0 }</style>
        <h1>title</h1><h3 id="twice">skipped</h3><p id="twice" style="color: #999">pale</p>
        <p style="color: #8886; background: #000">half</p>
        <p style="background: linear-gradient(#777, #777) no-repeat; color: #666">on a bar</p>
        <div style="width: 3000px">wide</div><a href="#nowhere">link</a>
        <div style="overflow: hidden; width: 20px; white-space: nowrap">a long text that is cut</div>
        <svg width="200" height="40"><rect width="200" height="40" fill="#222"/><text y="20">dark on dark</text>
        <text x="190" y="20" fill="#fff">outside</text></svg>
        <img src="data:image/png;base64,AAAA" alt="broken"><img src="https://example.org/a.png">
        <script>console.error("oh"); undefined.x</script>"""
    )
    page, complaints = open_page(browser, path)
    page.close()
    assert {one.split(":")[0] for one in complaints} >= {"error", "exception", "asks for https"}
    faults = "\n".join(find_faults(browser, path)[1280, "light"])
    for sentence in (
        "px wide, the window 1280", "id twice is used twice", "leads nowhere: <a", "the image is not loaded: <img",
        "no alt text: <img", "h3 after h1", 'contrast 2.85: <p id="twice"', 'contrast 1.74: <p style="color: #8886',
        'contrast 1.28: <p style="background', 'contrast 1.32: <text y="20"', "cut by its SVG's frame: <text x",
        'cut at its side: <div style="overflow',
    ):  # fmt: skip
        assert sentence in faults, (sentence, faults)


def test_a_good_page_has_none(browser, tmp_path):
    path = tmp_path / "good.html"
    path.write_text('<!doctype html><link rel="icon" href="data:,"><h1>title</h1><p style="color: #767676">grey</p>')
    assert set(find_faults(browser, path)) == {(1280, "dark"), (400, "dark")}  # #767676 is 4.54 on white, 4.1 on black


def test_the_page_of_a_sick_competition(browser, clinic, monkeypatch):  # noqa: F811
    table = clinic.read()
    clinic.path(0).write_bytes(b"")
    clinic.draw(2, np.full((64, 64, 3), 77, np.uint8))
    clinic.draw(3, clinic.pixels(3)[:9])
    other = int(np.flatnonzero(table["sick"] != table["sick"][4])[5])
    clinic.path(other).write_bytes(clinic.path(4).read_bytes())
    clinic.draw(5, cv2.resize(clinic.pixels(7, "test"), (64, 64)), quality=70)
    monkeypatch.chdir(clinic.folder)
    assert run_doctor(clinic.words(f"competition.name={EVIL}", f"output={clinic.folder}/doctor")) == 1
    assert find_faults(browser, clinic.folder / "doctor" / "doctor.html") == {}


def test_the_page_of_many_classes(browser, clinic):  # noqa: F811
    table = clinic.read().drop(columns="sick")
    table["label"] = [f"class {row % 40} {EVIL[: 4 * (row % 40)]}" for row in range(len(table))]
    clinic.save(table)
    clinic.save(clinic.read("sample_submission")[["id"]].assign(label="class 0"), "sample_submission")
    words = clinic.words("competition.targets=[]", "competition.label=label", "competition.task=multiclass")
    run_doctor([*words, "competition.metric=accuracy", f"output={clinic.folder}/doctor"])
    assert find_faults(browser, clinic.folder / "doctor" / "doctor.html") == {}


@pytest.fixture(scope="module")
def runs(tiny_run):
    """Two runs of the embedded competition in a folder, as train.py leaves them."""
    folder, _ = tiny_run
    shutil.copytree(folder / "outputs" / "demo_default", folder / "outputs" / "copied")
    return folder, ("outputs/demo_default", "outputs/copied")


@pytest.mark.parametrize("count", [1, 2])
def test_the_page_of_a_run_and_a_comparison(browser, runs, monkeypatch, capsys, count):
    folder, names = runs
    monkeypatch.chdir(folder)
    run_report([*names[:count]])
    assert find_faults(browser, capsys.readouterr().out.splitlines()[-1]) == {}


def test_the_page_of_a_run_of_many_columns_with_evil_names(browser, write_run):  # noqa: F811
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (300, 30))
    names = [f"{column} {EVIL[: 5 * column]}" for column in range(30)]
    run = write_run(targets, rng.random((300, 30)), "competition.task=multilabel", names=names)
    run_report([str(run)])
    assert find_faults(browser, run / "report.html") == {}


def test_the_page_of_a_regression(browser, write_run):  # noqa: F811
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(300, 2)) * [1e6, 1e-6]
    words = ("competition.task=regression", "competition.metric=rmse")
    run = write_run(targets, targets * rng.normal(1, 0.1, (300, 2)), *words, test=targets[:50])
    run_report([str(run)])
    assert find_faults(browser, run / "report.html") == {}
