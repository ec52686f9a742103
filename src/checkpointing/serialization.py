"""Checkpoints on disk: weights (best, last) and states, each with a checksum; nothing in them can run code.

Weights are safetensors with the checksum among their metadata. A state is everything a fold needs to go on (weights,
optimizer, schedule, average, log), in one file, so that no kill can leave halves of different moments: plain containers
in the zip file that torch.save makes, which holds a CRC-32 of each part. Its name says where the fold stands, and the
one before it stays as long as `keep` says, in case the newest is damaged.
"""

import pickle
import zipfile
import zlib

import torch
from accelerate.utils import recursively_apply
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from src.errors import UserError
from src.files import atomic_path


def copy_to_cpu(state):
    """Copy the tensors and containers of a state to the CPU, so that writing them needs no more work by torch.

    A torch operation in the thread that writes would start OpenMP's threads once more, and as more of them than cores
    no longer wait awake, every step after it would take a third longer (2 cores, mobilenetv2_100 at 128 px).
    """
    contiguous = torch.contiguous_format
    return recursively_apply(lambda one: one.detach().to("cpu", copy=True, memory_format=contiguous), state)


def save_weights(path, weights):
    """Write the weights and buffers of a state_dict as safetensors, atomically.

    Args:
        weights: {name: contiguous tensor on the CPU}, none of which share memory.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(weights, {"crc32": _checksum(weights)}))


def load_weights(path, network):
    """Load what `save_weights` wrote into a network of the same architecture.

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    weights = check_weights(path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise _wrong_weights(path, error) from None


def check_weights(path):
    """Return the weights of a file, {name: tensor}, after comparing their checksum.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:  # opened once, as another process may put a newer one in its place
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
            checksum = (file.metadata() or {}).get("crc32")
        if checksum is not None and checksum != _checksum(weights):
            raise SafetensorError("its checksum is another")
    except (OSError, SafetensorError) as error:
        raise _wrong_weights(path, error) from None
    return weights


def _wrong_weights(path, error):
    reason = str(error).strip().splitlines()[0]
    return UserError(f"{path}: cannot be loaded ({reason}); delete {path.parent} and train that fold again")


def _checksum(weights):
    """Return a CRC-32 of all tensors, by name; numpy and zlib only, as another thread may call it."""
    checksum = 0
    for name in sorted(weights):
        checksum = zlib.crc32(weights[name].numpy().reshape(-1).view("uint8"), zlib.crc32(name.encode(), checksum))
    return str(checksum)


def save_state(folder, epoch, num_batches, state, keep):
    """Write a state that stands after some epochs and some batches of the next one; atomically.

    Args:
        folder: pathlib.Path of the fold.
        state: plain containers of tensors, numbers and strings.
        keep: states that stay, with this one.

    Raises:
        OSError: it cannot be written; the newest state before it is there.
    """
    path = folder / f"state_{epoch:04d}_{num_batches:06d}.pt"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's word for whatever the file has raised
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
    for one in list_states(folder)[:-keep]:
        one.unlink()


def list_states(folder):
    """Return the paths of a fold's states, the newest last."""
    return sorted(folder.glob("state_*.pt"), key=lambda path: [int(part) for part in path.stem.split("_")[1:]])


def make_room(folder):
    """Delete a fold's states but the newest one; return whether there were any."""
    older = list_states(folder)[:-1]
    for path in older:
        path.unlink()
    return bool(older)


def load_newest_state(folder):
    """Return (path, state) of a fold's newest whole state, or (None, None); damaged ones are told and deleted."""
    for path in reversed(list_states(folder)):
        damage = _find_damage(path)
        if not damage:
            return path, load_state(path)
        print(f"{path}: damaged ({damage}); deleted, the one before it is used", flush=True)
        path.unlink()
    return None, None


def load_state(path):
    """Read what `save_state` wrote, on the CPU; nothing in the file can run code.

    Raises:
        UserError: the file holds more than plain containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than numbers and words, which could run code; delete it") from None


def _find_damage(path):
    """Return what is wrong with a file of torch.save by its checksums, or an empty string."""
    try:
        with zipfile.ZipFile(path) as file:
            part = file.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, zlib.error) as error:
        return str(error)
    return f"the checksum of {part} is another" if part else ""
