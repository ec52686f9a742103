"""What several test files share."""

import pytest

from tests.programs import TINY, Forked


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A folder with a finished run `outputs/demo_default` of the embedded competition, and what training printed."""
    folder = tmp_path_factory.mktemp("tiny")
    log = folder / "printed"
    assert Forked("train.py", TINY, folder, log).status() == 0, log.read_text()
    return folder, log.read_text()
