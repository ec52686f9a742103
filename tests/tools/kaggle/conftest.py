"""The double of Kaggle's API, a user's key, and the tool in this process."""

import pytest

from src.config.settings import REPOSITORY
from tests.tools.kaggle.double import Kaggle, serve
from tools.kaggle.__main__ import main

NAME = "aerial-cactus-identification"


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """The server, which this process's kaggle package asks; the current folder is tmp_path."""
    pytest.importorskip("kagglesdk", reason="pip install kaggle")
    server = Kaggle()
    monkeypatch.chdir(tmp_path)
    with serve(server) as environment:
        home = {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path / "key"), "KAGGLE_USERNAME": "ann"}
        home["PYTHONPATH"] = str(REPOSITORY)
        for key, value in {**environment, **home, "KAGGLE_KEY": "secret"}.items():
            monkeypatch.setenv(key, value)
        for key in ("KAGGLE_API_TOKEN", "KAGGLE_KERNEL_RUN_TYPE"):
            monkeypatch.delenv(key, raising=False)
        from kaggle import api

        assert "--local" in api.args  # or these tests would ask the real one
        server.environment = environment | home | {"KAGGLE_KEY": "secret"}
        yield server


@pytest.fixture
def refuse(capsys):
    """refuse(*words): the one line by which the tool ends."""

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        assert stop.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        return line.removeprefix("error: ")

    return run
