"""Random numbers go on where they were."""

import torch

from src.checkpointing.rng_state import read_random_state, write_random_state

CPU = torch.device("cpu")


def test_numbers_go_on_where_they_were():
    generator = torch.Generator().manual_seed(1)
    state = read_random_state(CPU, generator)
    expected = torch.rand(3), torch.rand(3, generator=generator)
    torch.manual_seed(5)
    other = torch.Generator()
    write_random_state(state, CPU, other)
    assert torch.equal(torch.rand(3), expected[0])
    assert torch.equal(torch.rand(3, generator=other), expected[1])
