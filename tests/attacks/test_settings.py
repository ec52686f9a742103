"""Any command line and any YAML ends as a checked Config that reads back the same, or as one line."""

import dataclasses
import string
import zlib

import pytest
import yaml
from hypothesis import strategies as st

from src.config.checks import check_config
from src.config.load import config_yaml, load_config, load_saved_config
from src.config.settings import GROUPS, REPOSITORY, settings
from src.errors import UserError
from tests.attacks.fuzzing import attack, attempt, how_many

KEYS = list(settings())
ODD = [
    *("", " ", "null", "~", "true", "no", "0x1F", "0o7", "1_000", "1:30:20", "1e999", "-1e999", "nan", ".inf"),
    "-0.0",
    *("1e400", "9" * 400, "9" * 5000, "-" + "9" * 5000, "1" + "0" * 30, "2020-01-01", "2020-99-99T25:61:61Z", "???"),
    *("${seed}", "${oc.env:HOME}", "${", "\\${x}", "${oc.env:HOME,${oc.env:PATH}}", "{}", "[]", "[[]]"),
    "{a: {b: 1}}",
    *("!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary YQ==", "!!set {a, b}"),
    *("!!int ''", "!!omap [a: 1]", "!!timestamp 2020-01-01", "!!float x", "!!bool maybe", "!!merge x"),
    *("!local x", "&a [*a]", "*a"),
    *("&a [&b [*b], *a]", "[&x 1, *x]", "{<<: {a: 1}}", "{<<: 3}", "[" * 10_000, "[" * 30 + "]" * 30, "{a: " * 9_000),
    *("x" * 100_000, "- " * 5_000, "? " * 3_000, "|", ">", "@x", "`x", "%YAML 1.1", "---", "...", "# x"),
    *("a: b: c", "a\tb"),
    *("\0", "\x1b[2J", "\udcff", "\u2028", "\x85", "\ufeff", "\u202e", "a\nb", "한글", "e\u0301", "🦀", "'", '"', "\\"),
    *("/", "..", "../..", "~/x", "/dev/null", "C:\\x", "a=b", "=", "{id}", "{id[0]}/*.png", "{a: 1, a: 2}", "{1: 2}"),
    *("{null: 1}", "{1.5: 1}", "{true: 1}", "{[a]: 1}", "{a.b: 1}", "{'': 1}", "[1, a, null, {b: [c]}]", "[1, 2]"),
]  # fmt: skip
SCALARS = (
    st.sampled_from(ODD)
    | st.text(max_size=20)
    | st.text(string.printable, max_size=20)
    | st.integers().map(str)
    | st.floats().map(repr)
)
NEAR_KEYS = st.sampled_from(KEYS) | st.sampled_from([*GROUPS]) | st.tuples(
    st.sampled_from(KEYS), st.integers(0, 30), st.text(string.printable, max_size=2)
).map(lambda one: one[0][: one[1]] + one[2] + one[0][one[1] + 1 :])  # fmt: skip


def right_values(key):
    """Values that a setting takes, or nearly takes."""
    one = settings()[key]
    if one.metadata["choices"]:
        return st.sampled_from(one.metadata["choices"])
    if "list" in str(one.type) or "tuple" in str(one.type):
        return st.lists(st.integers(-1, 300) | st.sampled_from(["a", "hflip", 0.5]), max_size=3).map(str)
    if "dict" in str(one.type):
        return st.dictionaries(st.sampled_from("abc"), st.integers() | st.booleans(), max_size=2).map(str)
    return st.sampled_from(["1", "0", "2", "0.5", "true", "null", "a", "none", "1e-3", "40"])


RIGHT_WORDS = st.sampled_from([key for key in KEYS if key != "recipe"]).flatmap(
    lambda key: right_values(key).map(lambda value: f"{key}={value}")
)
ODD_WORDS = st.tuples(st.sampled_from(KEYS) | NEAR_KEYS | st.text(max_size=8), SCALARS).map("=".join)
COMMAND_LINES = st.lists(RIGHT_WORDS, min_size=1, max_size=3) | st.lists(
    RIGHT_WORDS | ODD_WORDS | SCALARS | st.sampled_from(KEYS).map(lambda key: f"{key}.x=1"), min_size=1, max_size=3
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The words that name a competition and a recipe without any settings, which are read fast."""
    folder = tmp_path_factory.mktemp("settings")
    for name in ("any", "none"):
        (folder / f"{name}.yaml").write_text("")
    return folder, [f"competition={folder / 'any.yaml'}", f"recipe={folder / 'none.yaml'}"]


def check_words(words, folder):
    config = attempt(load_config, words)
    if config is None:
        return
    check_config(config)
    if zlib.crc32(repr(words).encode()) % 5:  # a fifth is written and read again, which takes longest
        return
    text = config_yaml(config)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    assert config_yaml(load_saved_config(folder)) == text


# what was found to end in a traceback, a crash or a value that did not read back
FOUND_WORDS = [
    ["infer.batch_size=" + "9" * 400],  # is no float
    ["seed=" + "9" * 5000],  # is no text
    ["image_size={a: 1}"],  # OmegaConf's TypeError
    ["loss.class_weights=[[]]"],  # OmegaConf takes it for numbers
    ["loss.class_weights=!!omap [a: 1]"],
    ["loss.kwargs=!!omap [a: 1]"],
    ["model.kwargs.a.b.c={} ", "model.kwargs={a: 1}", "model.kwargs.a.b=2"],
    ["competition=" + "x" * 300],  # a longer name than a file may have
    ["name=a\0b"],
    ["name=\udcff"],
    ["name=???"],  # was taken for no value
    ["model.kwargs.x=" + "- " * 5000],  # libyaml's reader ends the process
    ["model.kwargs.x=!!int ''"],  # PyYAML's IndexError
    ["model.kwargs.x=2020-99-99T25:61:61Z"],
]
FOUND_FILES = [
    b"seed: " + b"9" * 5000,
    b"model: {kwargs: {x: !!bool maybe}}",
    b"\xff",
    b"seed: 1\n---\n",
    b"'': {'': 1}",
]


@how_many(60, 1500)
def test_any_command_line_is_a_config_or_one_line(plain, num_inputs):
    folder, start = plain
    attack(lambda words: check_words([*start, *words], folder), COMMAND_LINES, num_inputs, found=FOUND_WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.nightly)])
def test_each_odd_value_of_each_kind_of_setting(plain, step):
    """Each kind takes every fifth value, another fifth than the kind before; at night all of them."""
    folder, start = plain
    kinds = {str(one.type): key for key, one in settings().items() if key != "recipe"}
    for place, key in enumerate([*kinds.values(), "competition", "recipe", "model.kwargs.x", "folds", "name"]):
        for value in ODD[place % step :: step]:
            check_words([*start, f"{key}={value}"], folder)


REAL_FILES = [path.read_bytes() for path in sorted((REPOSITORY / "configs").rglob("*.yaml"))]
REAL_FILES.append(yaml.safe_dump(dataclasses.asdict(load_config([])) | {"image_size": [8, 8]}).encode())


def put_in(content, place, new):
    place = min(place, len(content))
    return content[:place] + new + content[place:]


def flip(content, place, bit):
    place %= len(content)
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


CONTAINERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(ODD[:40]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NEAR_KEYS | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
LAYERS = st.dictionaries(
    st.sampled_from([*GROUPS]) | NEAR_KEYS,
    CONTAINERS | st.dictionaries(st.sampled_from(KEYS).map(lambda key: key.rpartition(".")[2]), CONTAINERS, max_size=3),
    max_size=3,
).map(lambda one: yaml.safe_dump(one, allow_unicode=True).encode(errors="surrogateescape"))
DAMAGED = (
    st.builds(lambda content, end: content[:end], st.sampled_from(REAL_FILES), st.integers(0, 2000))
    | st.builds(flip, st.sampled_from(REAL_FILES), st.integers(0, 2000), st.integers(0, 7))
    | st.builds(
        put_in,
        st.sampled_from(REAL_FILES),
        st.integers(0, 2000),
        st.sampled_from(ODD).map(lambda one: one.encode(errors="surrogateescape")) | st.binary(max_size=5),
    )
)
FILES = (
    LAYERS
    | DAMAGED
    | st.builds(lambda key, odd: f"{key}: {odd}\n".encode(errors="surrogateescape"), NEAR_KEYS, SCALARS.filter(len))
    | st.text(string.printable, max_size=60).map(str.encode)
    | st.binary(max_size=40)
)


@how_many(40, 700)
@pytest.mark.parametrize("kind", ["competition", "recipe"])
def test_any_yaml_file_is_a_config_or_one_line(plain, num_inputs, kind):
    folder, start = plain
    path = folder / f"attacked_{kind}.yaml"
    words = [word for word in start if not word.startswith(kind)] + [f"{kind}={path}"]

    def check(content):
        path.write_bytes(content)
        check_words(words, folder)

    attack(check, FILES, num_inputs, found=FOUND_FILES)


def test_no_setting_shows_what_the_environment_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    path = tmp_path / "a.yaml"
    for text in ("name: ${oc.env:KAGGLE_KEY}", "model: {kwargs: {a: [1, '${oc.env:KAGGLE_KEY}']}}"):
        path.write_text(text)
        with pytest.raises(UserError, match="settings hold no formulas and no variables; write out what is meant"):
            load_config([f"recipe={path}"])


def test_yaml_cannot_run_code(tmp_path):
    path, planted = tmp_path / "a.yaml", tmp_path / "planted"
    for tag in ("apply:os.system", "new:os.system", "apply:subprocess.call"):
        path.write_text(f"name: !!python/object/{tag} ['touch {planted}']")
        with pytest.raises(UserError, match="could not determine a constructor for the tag"):
            load_config([f"recipe={path}"])
        with pytest.raises(UserError, match="cannot be read"):
            load_config([f"model.kwargs.a=!!python/object/{tag} ['touch {planted}']"])
        load_config([f"infer.output=!!python/object/{tag} ['touch {planted}']"])  # where all is text
    assert not planted.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_bottomless_yaml_is_refused_before_a_reader_follows_it(tmp_path, text):
    """libyaml's loader ends the process at such a depth, and needs half a minute for the brackets of a smaller one."""
    (tmp_path / "a.yaml").write_text(f"model: {{kwargs: {{a: {text}" if text[0] in "[{" else text)
    with pytest.raises(UserError, match=r"a\.yaml: not valid YAML .*; correct it or delete it"):  # libyaml may say why
        load_config([f"recipe={tmp_path / 'a.yaml'}"])
    with pytest.raises(UserError, match="cannot be read .*; quote it for the shell"):
        load_config([f"model.kwargs.a={text}"])


def test_yaml_that_grows_when_read_is_refused(tmp_path):
    lines = ["  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"] + [
        f"  a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 15)
    ]
    (tmp_path / "a.yaml").write_text("model:\n kwargs:\n" + "\n".join(lines))
    with pytest.raises(UserError, match="YAML node expansion exceeds"):
        load_config([f"recipe={tmp_path / 'a.yaml'}"])
    (tmp_path / "a.yaml").write_text("# " + "x" * 1_000_001)
    with pytest.raises(UserError, match="over 1 MB"):
        load_config([f"recipe={tmp_path / 'a.yaml'}"])
