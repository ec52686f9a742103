"""The settings themselves: one level, at most 100, each read somewhere; and the words of a time."""

import dataclasses
import math
import re

import pytest

from src.config.settings import GROUPS, REPOSITORY, Config, Train, seconds_of, settings, value_of


def test_all_groups_have_one_level():
    assert all(key.count(".") <= 1 for key in settings())
    assert {key.split(".")[0] for key in settings() if "." in key} == set(GROUPS)


@pytest.mark.house
def test_there_are_at_most_136_settings():
    assert len(settings()) <= 136


def test_every_setting_has_a_meaning_and_a_default_within_its_range():
    config = Config()
    for key, one in settings().items():
        assert len(one.metadata["meaning"]) > 3
        if one.metadata["choices"] and isinstance(value_of(config, key), str):
            assert value_of(config, key) in one.metadata["choices"]


def test_defaults_are_not_shared():
    assert Train().average_kwargs == {}
    assert Train().average_kwargs is not Train().average_kwargs
    assert dataclasses.fields(Train)  # a frozen dataclass


def test_every_setting_is_read_somewhere():
    paths = [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "tools").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in paths if path.parent.name not in ("config", "adopt"))
    code += (REPOSITORY / "src" / "config" / "settings.py").read_text(encoding="utf-8").partition("GROUPS = ")[0]
    unread = [key for key in settings() if not re.search(rf"\.{key.rpartition('.')[2]}\b", code)]
    assert unread == []


def test_a_time_is_hours_minutes_or_seconds():
    assert [seconds_of(text) for text in ("8.5h", "45m", "90s", None)] == [30600, 2700, 90, None]
    assert all(math.isnan(seconds_of(text)) for text in ("", "h", "1e3s", "-1h", "1.h", "1 h", "1d", "nans"))
