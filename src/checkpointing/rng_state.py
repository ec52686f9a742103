"""The random numbers that a step draws from torch, as plain tensors: taken after one step, put back before the next."""

import torch


def read_random_state(device, generator=None):
    """Return {name: uint8 tensor}: of torch on the CPU and on the device, and of a generator of its own."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(*_place(device))
    return state if generator is None else state | {"generator": generator.get_state()}


def write_random_state(state, device, generator=None):
    """Put back what `read_random_state` returned; what the state lacks stays as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"], *_place(device))
    if generator is not None and "generator" in state:
        generator.set_state(state["generator"])


def _place(device):
    """Return the arguments that name a device: without them cuda takes the first, and mps has but one."""
    return (device,) if device.type == "cuda" else ()
