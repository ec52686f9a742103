"""What several test files share."""

import pytest

from tests.programs import TINY, run_program


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A folder with a finished run `outputs/demo_default` of the embedded competition, and what training printed."""
    folder = tmp_path_factory.mktemp("tiny")
    printed, _ = run_program("train.py", *TINY, cwd=folder)
    return folder, printed
