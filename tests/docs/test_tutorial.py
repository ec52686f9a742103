"""docs/tutorial.md: its commands take the settings that they name, its files load, and its pictures are small."""

import importlib.util
import re

import pytest

from src.config.load import load_config
from src.config.settings import REPOSITORY, settings

PAGE = (REPOSITORY / "docs/tutorial.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ python (.+(?:\\\n.+)?)", PAGE, re.M)


@pytest.fixture
def few(tmp_path):
    """The competition file that the reader saves."""
    [text] = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    path = tmp_path / "few.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_command_is_understood(few):
    assert len(COMMANDS) > 10
    for command in COMMANDS:
        program, *words = command.replace("\\\n", " ").split()
        if program == "train.py":
            config = load_config([word.replace("competition=few", f"competition={few}") for word in words])
            assert config.competition.metric == "roc_auc"
        elif program == "infer.py":
            assert {word.partition("=")[0] for word in words} <= {"run", *settings()}
        else:
            assert program == "-m"
            assert importlib.util.find_spec(words[0]), command


def test_the_pictures_are_there_and_small():
    names = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert 0 < len(names) <= 6
    for name in names:
        assert (REPOSITORY / "docs" / name).stat().st_size < 150_000
