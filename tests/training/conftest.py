"""Every test here begins with one process on the CPU in fp32, whatever run an earlier test has made in this process."""

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)  # which all Accelerators share, with its precision
    return Accelerator(cpu=True)
