"""What a task of Ray takes of a node; tests/nightly/test_ray.py has what needs a cluster."""

import sys

import pytest

from src.config.load import load_config
from src.errors import UserError
from src.training.seeds import build_launcher


@pytest.mark.parametrize(
    ("words", "nodes", "expected"),
    [
        ("threads=2", [{"CPU": 8}], ("cpu", {"num_cpus": 4}, 2, ["threads=2", "train.num_workers=2"])),
        ("", [{"CPU": 8}, {"CPU": 9}], ("cpu", {"num_cpus": 8}, 2, ["threads=6", "train.num_workers=2"])),
        ("threads=1 train.num_workers=0", [{"CPU": 3}, {}], ("cpu", {"num_cpus": 1}, 3, None)),
        ("", [{"CPU": 8}, {"CPU": 6, "GPU": 2}], ("cuda", {"num_gpus": 1, "num_cpus": 0}, 2, ["train.num_workers=3"])),
        ("train.num_workers=1", [{"GPU": 1}], ("cuda", {"num_gpus": 1, "num_cpus": 0}, 1, [])),
        ("device=cpu threads=1 train.num_workers=0", [{"CPU": 1, "GPU": 4}], ("cpu", {"num_cpus": 1}, 1, None)),
    ],
)  # fmt: skip
def test_a_task_takes_a_gpu_where_there_is_one_else_its_threads_and_workers(monkeypatch, words, nodes, expected):
    from src import ray_launcher

    monkeypatch.setattr(ray_launcher.joblib, "cpu_count", lambda: 8)
    found = ray_launcher._choose_share(load_config(words.split()), [{"Resources": one} for one in nodes])
    assert found[:3] == expected[:3]
    assert expected[3] in (None, found[3])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["threads=3", "train.num_workers=2"], "launcher=ray: a task takes 5 CPUs, the largest node has 4; set "
                                               "threads=3 train.num_workers=1"),
        (["device=cuda"], "device=cuda: no node of Ray gives it to a task; set device=auto or device=cpu"),
        (["device=cuda:1"], "device=cuda:1: no node of Ray gives it to a task; set device=auto or device=cpu"),
    ],
)  # fmt: skip
def test_a_share_that_no_node_has_is_refused(words, line):
    from src import ray_launcher

    with pytest.raises(UserError) as caught:
        ray_launcher._choose_share(load_config(words), [{"Resources": {"CPU": 4}}, {"Resources": {"memory": 1}}])
    assert str(caught.value) == line


def test_without_the_package_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "src.ray_launcher", raising=False)
    with pytest.raises(UserError, match=r"^launcher=ray: ray is missing; pip install -r requirements-scale.txt$"):
        build_launcher(load_config(["launcher=ray"]))


def test_an_address_where_nothing_listens_is_refused_at_once():
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"):
        with pytest.raises(UserError, match=f"^ray_address={address}: no Ray answers .*; start one"):
            build_launcher(load_config(["launcher=ray", f"ray_address={address}"]))
