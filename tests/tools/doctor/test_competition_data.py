"""What is read of a competition that the loaders refuse: their line is a finding, and the rest is looked at."""

import numpy as np
import pytest

from src.errors import UserError
from tests.tools.doctor.conftest import NUM_TEST, NUM_TRAIN
from tools.doctor.competition_data import load_data


def test_a_whole_competition_is_read_as_training_reads_it(clinic):
    data, findings = clinic.load()
    assert findings == []
    assert (len(data.train), len(data.test), len(data.scan)) == (NUM_TRAIN, NUM_TEST, NUM_TRAIN + NUM_TEST)
    assert data.is_test.sum() == NUM_TEST
    assert data.names[0] == f"train/{data.train.ids[0]}.jpg"
    assert list(data.train_columns["age"]) == list(clinic.read()["age"])
    assert list(data.train_columns) == list(data.test_columns) == ["site", "age"]
    assert data.of_all("groups").shape == (NUM_TRAIN + NUM_TEST,)
    assert data.of_all("targets") is None
    assert set(data.folds) == {0, 1}


def test_rows_without_an_image_are_reported_once_and_left_out(clinic):
    ids = clinic.read()["id"]
    for row in (4, 9):
        clinic.path(row).unlink()
    clinic.path(0, "test").unlink()
    data, findings = clinic.load()
    assert [one.title for one in findings] == ["2 of 160 train ids have no image", "1 of 60 test ids have no image"]
    assert findings[0].names == (ids[4], ids[9])
    assert len(data.train) == len(data.train_columns) == NUM_TRAIN - 2
    kept = clinic.read().drop([4, 9])
    assert list(data.train.ids) == list(kept["id"])
    assert data.train.targets[:, 0].tolist() == kept["sick"].astype(float).tolist()
    assert list(data.train.groups) == list(kept["patient"])
    assert list(data.names[:3]) == [f"train/{one}.jpg" for one in kept["id"][:3]]


def test_wrong_labels_leave_the_images(clinic):
    table = clinic.read()
    table.loc[3, "sick"] = "perhaps"
    clinic.save(table)
    data, findings = clinic.load()
    assert "holds other values than 0 to 1 (perhaps)" in findings[0].title
    assert [one.severity for one in findings] == ["error"]
    assert data.train.targets is None
    assert data.folds is None
    assert data.scan.is_read.all()


def test_a_constant_column_is_read_without_a_finding(clinic):
    """`labels.check_labels` says that it is constant."""
    clinic.save(clinic.read().assign(sick="0"))
    data, findings = clinic.load()
    assert findings == []
    assert data.train.targets.sum() == 0
    assert len(data.train) == NUM_TRAIN


def test_repeated_and_empty_ids_are_left_out(clinic):
    table = clinic.read()
    table.loc[1, "id"] = table["id"][0]
    table.loc[2, "id"] = ""
    clinic.save(table)
    data, findings = clinic.load()
    assert len(findings) == 1
    assert findings[0].severity == "error"
    assert len(data.train) == NUM_TRAIN - 2


def test_without_a_readable_table_the_test_images_are_still_looked_at(clinic):
    (clinic.root / "train.csv").write_text("")
    data, findings = clinic.load()
    assert "is empty" in findings[0].title
    assert data.train is None
    assert data.num_train == 0
    assert data.scan.is_read.all()
    assert len(data.scan) == NUM_TEST
    assert data.is_test.all()


def test_test_rows_without_images_and_a_wrong_sample(clinic):
    name = clinic.read("test")["id"][0]
    (clinic.root / "test" / f"{name}.jpg").unlink()
    data, findings = clinic.load()
    assert "1 of 60 test ids have no image" in [one.title for one in findings]
    assert len(data.test) == NUM_TEST - 1


def test_a_sample_with_other_rows(clinic):
    sample = (clinic.root / "sample_submission.csv").read_text().splitlines()
    (clinic.root / "sample_submission.csv").write_text("\n".join(sample[:-1]))
    _, findings = clinic.load()
    assert "0 of 59 ids are no test rows and 1 test rows are missing" in findings[0].title


def test_a_sample_has_placeholders_and_no_columns_of_the_test_rows(clinic):
    data, findings = clinic.load("competition.test_table=null", "competition.group=null")
    assert findings == []
    assert data.test_columns.shape == (NUM_TEST, 0)


def test_kept_folds_are_read_and_none_are_written(clinic):
    data, _ = clinic.load()
    assert not (clinic.folder / "outputs").exists()
    (clinic.folder / "outputs" / "folds").mkdir(parents=True)
    turned = "\n".join(
        ["id,fold", *(f"{one},{1 - fold}" for one, fold in zip(data.train.ids, data.folds, strict=True))]
    )
    (clinic.folder / "outputs" / "folds" / "clinic_auto_2_seed1_by_patient.csv").write_text(turned)
    again, _ = clinic.load()
    assert np.array_equal(again.folds, 1 - data.folds)


def test_too_many_folds_are_a_finding(clinic):
    data, findings = clinic.load("num_folds=100")
    assert data.folds is None
    assert findings[0].title == "num_folds=100: only 80 groups to split"


def test_no_folder_at_all(clinic):
    data, findings = load_data(clinic.config("competition.root=nowhere"))
    assert len(data.scan) == 0
    assert findings[0].title.startswith("nowhere: no such folder")


def test_one_fault_of_a_table_is_one_finding(clinic):
    (clinic.root / "train.csv").unlink()
    assert [one.title for one in clinic.load()[1]] == [f"{clinic.root}/train.csv: no such file"]


def test_no_test_images_are_only_a_note_where_no_table_asks_for_them(clinic):
    words = ("competition.test_table=null", "competition.sample_submission=null", "competition.test_image=no/{id}.jpg")
    data, [finding] = clinic.load(*words)
    assert (finding.severity, finding.title) == ("note", f"{clinic.root}/no: no image found there")
    assert data.test is None
    assert len(data.scan) == NUM_TRAIN


def test_an_image_outside_the_root_is_reported(clinic):
    table = clinic.read()
    table.loc[0, "id"] = "../../etc"
    clinic.save(table)
    data, findings = clinic.load()
    assert "would be outside this folder" in findings[0].title
    assert data.train is None


def test_an_unknown_task_setting_is_no_crash(clinic):
    with pytest.raises(UserError, match="unknown setting"):
        clinic.load("competition.tasks=binary")
