"""Every test here starts with one process on the CPU in fp32."""

import pytest


@pytest.fixture(autouse=True)
def one_process(accelerator):
    pass
