"""Submissions to the double: what is sent, what is refused, how scores come back, and what is known after a break."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.competition.submission import load_sample, write_submission
from src.config.load import config_yaml, load_config
from tests.tools.kaggle.conftest import NAME
from tools.kaggle import submit as module
from tools.kaggle.__main__ import main

IDS = np.array(["a", "b", "c"])
PAGE = f"https://www.kaggle.com/competitions/{NAME}/submissions"


@pytest.fixture
def make(kaggle, tmp_path, monkeypatch):
    """make(name, probs, competition=): a run's folder with the submission of these probabilities, as infer.py's."""
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sample.csv").write_text("id,has_cactus\nb,0.5\na,0.5\nc,0.5\n")
    settings = "root: data, train_table: train.csv, sample_submission: sample.csv, id: id, targets: [has_cactus]"
    competitions = tmp_path / "configs" / "competition"
    competitions.mkdir(parents=True)

    def make_(run, probs=(0.1, 0.2, 0.3), competition=NAME):
        path = competitions / f"{competition}.yaml"
        path.write_text(f"competition: {{{settings}, train_image: '{{id}}.jpg', task: binary}}\n")
        folder = tmp_path / "outputs" / run
        folder.mkdir(parents=True)
        config = load_config([f"competition={competition}", f"name={run}", "tracking=none"])
        (folder / "config.yaml").write_text(config_yaml(config))
        of = config.competition
        write_submission(folder / "submission.csv", load_sample(of), of, IDS, np.c_[list(probs)], ("has_cactus",))
        return folder

    return make_


def ledger(folder):
    return json.loads((Path("outputs") / folder / "submitted.json").read_text())


def test_a_submission_is_checked_sent_scored_and_entered(make, kaggle, capfd):
    folder = make("a")
    kaggle.pending = 2
    assert main(["submit", "outputs/a", "-m", "five folds"]) == 0
    content = (folder / "submission.csv").read_bytes()
    assert kaggle.uploads == [content]
    assert kaggle.asked.count("GetSubmission") == 3
    known = ledger(folder)
    assert (known["public"], known["private"]) == (0.9731, 0.9702)
    [entry] = known["files"]
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert [entry[key] for key in ("competition", "message", "ref", "status")] == [NAME, "five folds", 700, "complete"]
    printed = capfd.readouterr().out.splitlines()
    assert printed[:2] == [
        "outputs/a/submission.csv: 3 rows, checked",
        f"outputs/a/submission.csv: sending to {NAME} ...",
    ]
    assert printed[2].endswith(f"UTC as number 700 (pending); {PAGE}")
    assert printed[3] == "outputs/a/submission.csv: public 0.9731, private 0.9702"
    assert "   public  private  run" in "\n".join(printed)


def test_the_same_file_is_sent_once_of_whatever_run(make, kaggle, refuse, monkeypatch):
    make("a"), make("b"), make("c", (0.3, 0.2, 0.1))
    kaggle.scores = ("", "")  # so that no leaderboard is entered
    main(["submit", "outputs/a"])
    sent = f"sent {ledger('a')['files'][0]['sent'][:16].replace('T', ' ')} UTC as number 700 (complete)"
    advice = "infer again with other settings, or add again=true"
    assert refuse("submit", "outputs/a") == f"outputs/a/submission.csv: was {sent} before; {advice}"
    assert refuse("submit", "outputs/b") == f"outputs/b/submission.csv: outputs/a has the same file, {sent}; {advice}"
    assert len(kaggle.uploads) == 1
    main(["submit", "outputs/c"])
    main(["submit", "outputs/b", "again=true"])
    assert [one["description"] for one in kaggle.submissions] == ["b", "c", "a"]


def test_what_was_changed_or_fails_its_check_is_not_sent(make, kaggle, refuse, tmp_path):
    folder, path = make("a"), Path("outputs/a/submission.csv")
    written = path.read_text()
    path.write_text(written.replace("0.1", "0.9"))
    how = "python infer.py run=outputs/a"
    assert refuse("submit", "outputs/a") == f"{path}: was changed since it was written; write it anew: {how}"
    path.write_text(written)
    (tmp_path / "data/sample.csv").write_text("id,has_cactus\nb,0.5\na,0.5\nd,0.5\n")
    expected = "1 of the sample's 3 ids are missing and 1 are too many (first: d)"
    assert expected in refuse("submit", "outputs/a")
    (folder / "submission.sha256").unlink()
    assert refuse("submit", "outputs/a").endswith(f"lacks submission.sha256 beside it; write both: {how}")
    path.unlink()
    assert refuse("submit", "outputs/a") == f"outputs/a/submission.csv: no such file; write it: {how}"
    (folder / "blend.json").write_text('{"command": "python -m tools.blend x y"}')
    assert refuse("submit", "outputs/a").endswith("write it: python -m tools.blend x y overwrite=true")
    assert refuse("submit", "outputs/z") == "outputs/z: not a run (no config.yaml); train one with python train.py"
    assert kaggle.asked == []


def test_a_run_of_another_competition_is_refused_and_a_name_that_was_given_is_remembered(make, kaggle, refuse):
    make("a", competition="cactus"), make("b", (0.2, 0.2, 0.3), "cactus"), make("other", competition="birds")
    path = Path("configs/competition/birds.yaml")
    path.write_text(path.read_text().replace("sample.csv", "birds.csv"))
    Path("data/birds.csv").write_text("image,bird\nx,0\n")
    found = "columns are id, has_cactus, the sample has image, bird"
    expected = f"outputs/a/submission.csv: is of cactus, and no submission to birds ({found}); name a run of birds"
    assert refuse("submit", "outputs/a", "competition=birds") == expected
    assert "cactus: Kaggle knows no such competition" in refuse("submit", "outputs/a")
    assert ledger("a") == {"files": []}
    kaggle.scores = ("", "")
    main(["submit", "outputs/a", f"competition={NAME}"])
    main(["submit", "outputs/b"])
    assert [one["competition"] for run in "ab" for one in ledger(run)["files"]] == [NAME, NAME]
    expected = f"outputs/b: is a run of cactus, of which runs were sent to {NAME}; leave competition=trees out"
    assert refuse("submit", "outputs/b", "competition=trees") == expected


def test_a_competition_of_notebooks_and_a_day_without_submissions_left_are_refused_before_the_upload(
    make, kaggle, refuse
):
    make("a")
    kaggle.notebooks_only = True
    how = "python -m tools.bundle RUN output=FOLDER makes what its notebook needs"
    assert refuse("submit", "outputs/a") == f"{NAME}: takes notebooks only, no files (its page says so); {how}"
    kaggle.notebooks_only = False
    kaggle.submissions, kaggle.left = [{"ref": 1, "description": "by hand"}], 0
    until = "run the same command again after midnight UTC"
    assert refuse("submit", "outputs/a") == f"{NAME}: takes no more today (1 were sent); {until}"
    assert kaggle.uploads == []


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (400, "Submission not allowed: This competition only accepts Submissions from Notebooks.",
         "takes notebooks only, no files (Submission not allowed: This competition only accepts Submissions from "
         "Notebooks); python -m tools.bundle RUN output=FOLDER makes what its notebook needs"),
        (400, "Your team has used its daily limit of 5.",
         "Kaggle takes no more today (Your team has used its daily limit of 5); run the same command again after "
         "midnight UTC"),
        (400, "Bad file", f"Kaggle refuses (400: Bad file); look at {PAGE}"),
    ],
)  # fmt: skip
def test_what_kaggle_refuses_is_told_and_not_taken_for_sent(make, kaggle, refuse, status, said, expected):
    folder = make("a")
    kaggle.refusal = (status, said)
    assert refuse("submit", "outputs/a") == f"{NAME}: {expected}"
    assert ledger(folder)["files"] == []


def test_a_file_that_kaggle_cannot_score_is_told_with_its_reason(make, kaggle, refuse):
    make("a")
    kaggle.error = "Evaluation Exception: wrong ids"
    said = "outputs/a/submission.csv: Kaggle could not score number 700: Evaluation Exception: wrong ids; correct it"
    assert refuse("submit", "outputs/a") == said
    assert "(Evaluation Exception: wrong ids) before" in refuse("submit", "outputs/a")


def test_lost_connections_while_waiting_are_endured_and_a_long_one_ends_with_what_is_known(
    make, kaggle, refuse, capsys, monkeypatch
):
    make("a")
    kaggle.scores = ("", "")
    kaggle.failing = [404, 0, 503, 429]
    main(["submit", "outputs/a"])
    assert kaggle.asked.count("GetSubmission") == 5
    assert capsys.readouterr().err == "kaggle: no answer (ProxyError); asking again\n"
    make("b", (0.3, 0.2, 0.1))
    monkeypatch.setattr(module, "_PATIENCE", 2)
    kaggle.failing = [0] * 3
    line = refuse("submit", "outputs/b")
    assert "UTC as number 701 (pending), but Kaggle does not answer (" in line
    assert line.endswith("); the same command asks again")
    main(["submit", "outputs/b"])
    assert ledger("b")["files"][0]["status"] == "complete"
    assert len(kaggle.uploads) == 2


def test_a_submission_whose_answer_was_lost_is_found_in_kaggles_list_and_not_sent_again(make, kaggle, refuse):
    folder = make("a")
    kaggle.submissions = [{"ref": 1, "description": "m", "date": "2020-01-01T00:00:00Z", "totalBytes": 36}]
    kaggle.loses_answer = True
    line = refuse("submit", "outputs/a", "-m", "m")
    assert line.startswith("kaggle: no connection (")
    assert [(one["status"], one["ref"]) for one in ledger(folder)["files"]] == [("sending", None)]
    kaggle.scores = ("", "")
    main(["submit", "outputs/a", "-m", "m"])
    assert [(one["status"], one["ref"]) for one in ledger(folder)["files"]] == [("complete", 701)]
    assert len(kaggle.uploads) == 1


@pytest.mark.parametrize("body", [b"<html>", b"null"])
def test_a_page_in_place_of_an_answer_leaves_it_unknown_whether_it_arrived(make, kaggle, body):
    make("a")
    kaggle.odd = {"CreateSubmission": (200, body)}
    with pytest.raises((SystemExit, TypeError)):  # the package stumbles over null
        main(["submit", "outputs/a"])
    assert [one["status"] for one in ledger("a")["files"]] == ["sending"]


def test_a_page_in_place_of_an_answer_is_one_line(make, kaggle, refuse):
    make("a")
    kaggle.odd = {"ListSubmissions": (200, b"<html>"), "CreateSubmission": (200, b"<html>")}
    line = "kaggle: its answer is a page, not data, as while it is maintained; run the same command again in a while"
    assert refuse("submit", "outputs/a") == line
    assert refuse("submit", "outputs/a") == line  # which looks into Kaggle's list


def test_a_submission_that_never_arrived_is_sent(make, kaggle):
    folder = make("a")
    digest = hashlib.sha256((folder / "submission.csv").read_bytes()).hexdigest()
    entry = {"sha256": digest, "competition": NAME, "message": "m", "sent": "2026-11-26T04:00:00.000+00:00"}
    entry |= {"status": "sending", "ref": None, "bytes": 36}
    (folder / "submitted.json").write_text(json.dumps({"files": [entry], "public": 0.5}))
    kaggle.scores = ("", "")
    main(["submit", "outputs/a", "message=m"])
    assert [one["ref"] for one in ledger(folder)["files"]] == [700]
    assert ledger(folder)["public"] == 0.5


def test_scores_that_are_missing_are_entered_when_kaggle_shows_them(make, kaggle, capfd):
    folder = make("a")
    kaggle.pending = 100
    main(["submit", "outputs/a", "wait=0s"])
    assert "not scored yet; the same command goes on waiting" in capfd.readouterr().out
    kaggle.pending, kaggle.scores = 0, ("0.9", "0.8")
    main(["scores"])
    assert (ledger(folder)["public"], ledger(folder)["private"]) == (0.9, 0.8)
    assert len(kaggle.uploads) == 1
    capfd.readouterr()
    main(["scores"])
    assert capfd.readouterr().out == "outputs: 0 submissions lack a score\n"


@pytest.mark.slow
def test_ctrl_c_while_waiting_leaves_a_submission_that_the_same_command_waits_for(make, kaggle, tmp_path):
    folder = make("a")
    kaggle.pending = 10**6
    words = [sys.executable, "-m", "tools.kaggle", "submit", "outputs/a", "-m", "m"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(words, **pipes)
    end = time.monotonic() + 60
    while time.monotonic() < end and "GetSubmission" not in kaggle.asked:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    error = first.communicate()[1]
    assert (first.returncode, error) == (130, "\nstopped; to resume, run the same command again\n")
    assert ledger(folder)["files"][0]["status"] == "pending"
    kaggle.pending = 0
    done = subprocess.run(words, check=False, **pipes)
    assert done.returncode == 0, done.stderr
    assert ledger(folder)["public"] == 0.9731
    assert len(kaggle.uploads) == 1
