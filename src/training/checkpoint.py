"""What a fold leaves on disk: best.safetensors, last.pt while it trains, last.safetensors and meta.json when done.

Weights are safetensors. last.pt holds everything a fold needs to go on (weights, optimizer, schedule, average, log) in
one file, so that no kill can leave halves of different epochs; it holds plain containers and is loaded as such.
"""

import pickle

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src.errors import UserError
from src.files import atomic_path


def save_weights(path, weights):
    """Write the weights and buffers of a state_dict as safetensors, atomically.

    Args:
        weights: {name: contiguous tensor on the CPU}, none of which share memory.
    """
    with atomic_path(path) as temporary:
        save_file(weights, temporary)


def load_weights(path, network):
    """Load what `save_weights` wrote into a network of the same architecture.

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be loaded ({reason}); train the fold again with overwrite=true") from None


def save_state(path, state):
    """Write plain containers of tensors, numbers and strings, atomically."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_state(path):
    """Read what `save_state` wrote, on the CPU; nothing in the file can run code.

    Raises:
        UserError: the file is damaged or holds more than plain containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}); delete it to train the fold from its start"
        ) from None
