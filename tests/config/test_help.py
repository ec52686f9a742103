"""--help, and what helps who has typed a name that is no setting."""

import re
import subprocess
import sys

import pytest

from src.config.help import _OTHER_NAMES, COMMON, as_word, help_asked
from src.config.load import load_config
from src.config.registry import list_keywords
from src.config.settings import REPOSITORY, settings
from src.errors import UserError


def keys_of(text):
    return [line.strip().partition("=")[0] for line in text.splitlines() if re.match(r"  [a-z]", line)]


def test_help_alone_shows_what_people_change_on_two_screens_at_most():
    text = help_asked(["--help"])
    assert sorted(keys_of(text)) == sorted(COMMON)
    assert set(COMMON) <= set(settings())
    assert 15 <= len(COMMON) <= 25
    assert len(text.splitlines()) <= 80
    assert max(map(len, text.splitlines())) <= 80
    last = f"All {len(settings())} settings: --help all; those of one name: for example --help loss"
    assert text.splitlines()[-1] == last
    assert help_asked(["competition=mine", "-h"]) == text
    assert help_asked(["train.epochs=3"]) is None


def test_help_of_a_name_shows_the_settings_that_begin_so():
    assert keys_of(help_asked(["--help", "loss"])) == [key for key in settings() if key.startswith("loss.")]
    assert keys_of(help_asked(["mix.*", "--help"])) == [key for key in settings() if key.startswith("mix.")]
    assert keys_of(help_asked(["--help", "lr"])) == ["optimizer.lr"]
    assert keys_of(help_asked(["--help"], ("infer",))) == [key for key in settings() if key.startswith("infer.")]
    with pytest.raises(UserError, match=r"^--help optimzer.lr: no setting begins so; did you mean optimizer.lr\?$"):
        help_asked(["--help", "optimzer.lr"])


def test_help_all_lists_every_setting_within_80_columns():
    text = help_asked(["--help", "all"])
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"  {key}=" in text for key in settings())
    for line in (
        "train.epochs=10",
        "mix.cutmix_alpha=1.0",
        "mix.off_epochs=0",
        "train.compile=false",
        "model.kwargs={}",
    ):
        assert f"  {line}\n" in text
    assert "share of batches that are mixed; 0: off (from 0 to 1)" in text


def test_help_lists_the_names_of_registries_and_their_keywords():
    text = " ".join(help_asked(["--help", "all"]).split())
    for key, one in settings().items():
        assert all(name in text for name in one.metadata["choices"]), key
        for name, keywords in list_keywords(*(one.metadata["kwargs_of"] or ("", ""))).items():
            assert f"{name}: {keywords}" in text
    for words in ("focal: gamma=2.0", "on=loss", "widths=[]", "restart_epochs=null", "simple_cnn", "rand_augment"):
        assert words in text


@pytest.mark.parametrize("words", [["--help"], ["trian.epochs=3"]])
def test_help_and_config_errors_do_not_wait_for_slow_imports(words):
    code = "import sys, runpy; sys.argv = ['train.py', *{!r}]\ntry: runpy.run_path('train.py', run_name='__main__')\n"
    code += "except SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code.format(words)], capture_output=True, text=True, cwd=REPOSITORY)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "src.config.load" in loaded
    assert not loaded & {"torch", "timm", "albumentations", "cv2", "sklearn", "scipy", "pandas", "matplotlib"}
    if words != ["--help"]:
        assert done.stderr == "error: command line: unknown setting trian.epochs; did you mean train.epochs?\n"


def test_other_trainers_names_lead_to_settings():
    assert set(_OTHER_NAMES.values()) <= set(settings())
    assert not set(_OTHER_NAMES) & set(settings())


def test_a_value_is_written_as_it_would_be_typed():
    assert [as_word(one) for one in (None, True, False, 3, "a", (224, 224), [])] == [
        *("null", "true", "false", 3, "a", "[224,224]", "[]")
    ]
    value = {"pad_type": "same", "a": {"b": None, "c": [True, 1.5]}}
    assert load_config(["model.kwargs={}", f"model.kwargs={as_word(value)}"]).model.kwargs == value
