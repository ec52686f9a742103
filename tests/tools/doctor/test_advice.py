"""The next command: train.py where settings answer all errors, else the doctor again."""

from tools.doctor.advice import advise
from tools.doctor.findings import Finding

WORDS = ["competition=a b", "folds=auto"]


def test_without_findings_it_is_training():
    assert advise([Finding("note", "", "")], WORDS)[1] == "python train.py 'competition=a b' folds=auto"
    assert advise([], [])[1] == "python train.py"


def test_settings_that_answer_findings_are_added(tmp_path):
    path = tmp_path / "folds.csv"
    findings = [Finding("error", "", "", words=(f"folds={path}",)), Finding("note", "", "", words=("unreadable=skip",))]
    sentence, command = advise(findings, WORDS)  # the file is not there: it could not be written
    assert sentence.startswith("Correct the error, ")
    assert command == "python -m tools.doctor 'competition=a b' folds=auto"
    path.write_text("")
    sentence, command = advise(findings, WORDS)
    assert "with the settings that answer findings" in sentence
    assert command == f"python train.py 'competition=a b' folds={path} unreadable=skip"


def test_an_error_without_an_answer_comes_first():
    findings = [Finding("error", "", ""), Finding("error", "", "", words=("unreadable=skip",))]
    sentence, command = advise(findings, WORDS)
    assert sentence == "Correct the 2 errors, then look again:"
    assert command.startswith("python -m tools.doctor ")


def test_a_run_that_was_looked_at_is_inferred():
    assert advise([], ["augment.preset=light"], "outputs/a")[1] == "python infer.py run=outputs/a"
    found = advise([Finding("error", "", "")], [], "outputs/a")[1]
    assert found == "python -m tools.doctor run=outputs/a"
