"""What a run needs, by hand from costs; and what is not there is a finding."""

from types import SimpleNamespace

import numpy as np
import pytest

from tools.doctor import resources
from tools.doctor.costs import Costs
from tools.doctor.resources import Needs, check_resources, compare_needs, estimate_needs

COSTS = Costs(train=0.01, predict=0.002, decode=0.004, augment=0.001, weight_bytes=10**8, activation_bytes=10**7)


def needs(clinic, *words, num_workers=0):
    config = clinic.config("image_size=100", "train.epochs=3", "train.batch_size=10", *words)
    return estimate_needs(config, COSTS, np.array([400, 600]), 1000, num_workers)


def test_time_and_disk_by_hand(clinic):
    found = needs(clinic)
    epoch = 500 * (0.01 + 0.001) + 500 * 0.002  # decoded images are kept, so that augmenting is left
    assert found.epoch_seconds == pytest.approx(epoch)
    assert found.run_seconds == pytest.approx(2 * 3 * epoch + 1000 * 0.004)
    assert found.cache_bytes == 1000 * 100 * 100 * 3
    assert found.checkpoint_bytes == (2 + 4 * 3) * 10**8
    assert found.memory_bytes == 800_000_000 + 5 * 10**8 + 10 * (10**7 + 4 * 30000)


def test_other_settings_change_it(clinic):
    assert needs(clinic, "cache=off").cache_bytes == 0
    assert needs(clinic, "cache=off").epoch_seconds == pytest.approx(500 * 0.015 + 1)
    assert needs(clinic, "cache=off", num_workers=4).epoch_seconds == pytest.approx(500 * 0.01 + 1)
    assert needs(clinic, num_workers=4).memory_bytes > needs(clinic).memory_bytes + 4 * 400_000_000
    assert needs(clinic, "fold=0", "keep_checkpoints=1").checkpoint_bytes == (1 + 4 * 2) * 10**8
    assert needs(clinic, "train.max_images=50").epoch_seconds == pytest.approx(50 * 0.011 + 1)
    assert needs(clinic, "train.batches_per_epoch=7").epoch_seconds == pytest.approx(70 * 0.011 + 1)
    twice = needs(clinic, "augment.kwargs.crop=0.5")  # training then reads its images at another size than validation
    assert twice.cache_bytes == 1000 * 3 * (125 * 125 + 100 * 100)
    head = needs(clinic, "model.pretrained=true", "model.freeze=head_only")
    assert head.run_seconds == pytest.approx(1000 * (0.002 + 0.001))


def test_what_does_not_fit_is_a_finding(clinic):
    need = Needs(10 * 10**9, 5 * 10**9, 8 * 10**9, 1.0, 1.0)
    assert compare_needs(clinic.config(), need, 13 * 10**9, 6 * 10**9, 9 * 10**9) == []
    findings = compare_needs(clinic.config(), need, 11 * 10**9, 4 * 10**9, 7 * 10**9)
    assert [one.severity for one in findings] == ["warning", "error", "warning"]
    assert findings[0].title == "10.0 GB of decoded images do not fit on the disk (11.0 GB free, 2.0 GB are kept free)"
    assert findings[1].title == "5.0 GB of weights do not fit on the disk: 4.0 GB free"
    assert findings[2].title == "training takes about 8.0 GB of memory, 7.0 GB are free"
    assert compare_needs(clinic.config("cache=on"), need, 0, 6 * 10**9, 9 * 10**9)[0].severity == "error"


def test_a_full_disk_is_found(clinic, monkeypatch):
    data, _ = clinic.load("device=cpu")
    rows = np.arange(160)

    def leave_free(disk, memory):
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda folder: SimpleNamespace(free=disk))
        monkeypatch.setattr(resources.psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))

    leave_free(10**12, 10**11)
    findings, [fact] = check_resources(data, rows)
    assert findings == []
    assert [line.split()[0] for line in fact.lines] == ["disk", "memory", "speed", "time"]
    monkeypatch.setattr(resources, "measure_costs", lambda *_: COSTS)
    leave_free(10**5, 10**6)
    assert [one.severity for one in check_resources(data, rows)[0]] == ["warning", "error", "warning"]
    assert list(clinic.folder.glob("**/cache")) == []


def test_a_network_that_cannot_be_built_is_an_error(clinic):
    data, _ = clinic.load("model.backbone=resnet1")
    [finding], facts = check_resources(data, np.arange(160))
    assert finding.severity == "error"
    assert "resnet1" in finding.title
    assert facts == []
