"""Weights and states as files: safetensors and torch.save, each with a checksum; reading them runs no code."""

import pickle
import zipfile
import zlib

import torch
from accelerate.utils import recursively_apply
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from src.checkpointing.run_folder import RunFolder
from src.competition.metadata import count_inputs
from src.errors import UserError, first_line
from src.files import atomic_path
from src.model.network import build_network
from src.model.weights import describe_misfit
from src.terminal import paint


def load_network(config, fold_folder):
    """Return the trained network of a FoldFolder, in evaluation mode on the CPU; config: the run's."""
    num_metadata = count_inputs(RunFolder(fold_folder.path.parent).load_encoding(config.competition))
    num_targets = len(fold_folder.load_target_names())
    network = build_network(config, num_targets, load_pretrained=False, num_metadata=num_metadata)
    load_weights(fold_folder.weights(config.train.select), network)
    return network.eval()


def copy_to_cpu(state):
    """Copy a state's tensors and containers to the CPU, so that the thread that writes them needs no torch operation.

    One there would start a second set of OpenMP threads, and every later step takes 1.3 times as long (2 cores).
    """
    contiguous = torch.contiguous_format
    return recursively_apply(lambda one: one.detach().to("cpu", copy=True, memory_format=contiguous), state)


def save_weights(path, weights):
    """Write a state dict, {name: contiguous tensor on the CPU}, as safetensors, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(weights, {"crc32": _compute_checksum(weights)}))


def load_weights(path, network):
    """Load what `save_weights` wrote into a network; weights of another architecture raise a UserError."""
    try:
        weights = read_weights(path)
        if getattr(network, "auxiliary", None) is None:  # it is for training alone
            weights = {name: one for name, one in weights.items() if not name.startswith("auxiliary.")}
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise _wrong_weights(path, describe_misfit(error)) from None


def read_weights(path):
    """Return the state dict in a file, {name: tensor}; a file that is missing or damaged raises a UserError."""
    try:
        with safe_open(path, "pt") as file:  # opened once: another process may replace the file meanwhile
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            checksum = (file.metadata() or {}).get("crc32")
        if checksum is not None and checksum != _compute_checksum(weights):
            raise SafetensorError("its checksum differs")
    except (OSError, SafetensorError) as error:
        raise _wrong_weights(path, error) from None
    return weights


def _wrong_weights(path, error):
    return UserError(f"{path}: cannot be loaded ({first_line(error)}); delete {path.parent} and train that fold again")


def _compute_checksum(weights):
    """Return a CRC-32 over all tensors, by name; numpy and zlib only, as the writing thread calls it."""
    checksum = 0
    for name in sorted(weights):
        checksum = zlib.crc32(weights[name].numpy().reshape(-1).view("uint8"), zlib.crc32(name.encode(), checksum))
    return str(checksum)


def save_state(folder, epoch, num_batches, state, keep):
    """Write a fold's state, plain containers that are all it needs to resume, atomically; the `keep` newest stay."""
    with atomic_path(folder.state(epoch, num_batches)) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch wraps what the file has raised
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
    for one in folder.states()[:-keep]:
        one.unlink()


def load_newest_state(folder):
    """Return (path, state) of a fold's newest undamaged state, or (None, None); damaged ones are named and deleted."""
    for path in reversed(folder.states()):
        try:
            with zipfile.ZipFile(path) as file:
                part = file.testzip()
            damage = part and f"the checksum of {part} differs"
        except (zipfile.BadZipFile, EOFError, ValueError, zlib.error) as error:
            damage = first_line(error)
        if not damage:
            return path, load_state(path)
        print(paint(f"{path}: damaged ({damage}); deleted, the state before it is used", "yellow"), flush=True)
        path.unlink()
    return None, None


def load_state(path):
    """Read what `save_state` wrote, onto the CPU; a file that holds more, which could run code, raises a UserError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than tensors and plain values, which could run code; delete it") from None
