"""The processes of torchrun: how they connect, how long one waits for another, and what all must have alike."""

import hashlib
import os
import platform
from datetime import timedelta

import numpy as np
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list, gather_object

from src.checkpointing.run_folder import training_settings
from src.config.help import as_word
from src.config.settings import REPOSITORY, value_of
from src.device import choose_interface, resolve_device, set_switches
from src.errors import UserError, first_line
from src.training.provenance import read_versions

WORKING = timedelta(minutes=10)  # longest wait for another process that trains: one that is lost says nothing
PREPARING = timedelta(hours=6)  # where one may decode, or write the report, for all


def start_processes(config, device=None):
    """Return accelerate's PartialState on a device, None: the config's; each process of torchrun has its own."""
    device, is_several = resolve_device(device or config.device), "WORLD_SIZE" in os.environ
    set_switches(device, config.device_kwargs)
    if is_several:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # or accelerate warns; `share_cores` decides
        choose_interface()
    elif device.type == "cpu":
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)  # of a run on a GPU before it in this process
    else:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    # a process may train twice, with other precisions; several of torchrun stay connected
    AcceleratorState._reset_state(reset_partial_state=not is_several)
    try:
        processes = PartialState(cpu=device.type == "cpu", timeout=WORKING)
    except RuntimeError as error:
        if not is_several:
            raise
        advice = "check --master_addr, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network between hosts"
        raise UserError(f"the processes of torchrun do not reach each other ({first_line(error)}); {advice}") from None
    wait_at_most(PREPARING)
    return processes


def wait_at_most(duration):
    """Set how long an operation of several processes waits for the others, a timedelta, before it fails."""
    if torch.distributed.is_initialized():
        of_old = torch.distributed.distributed_c10d  # torch < 2.14
        (getattr(torch.distributed, "set_timeout", None) or of_old._set_pg_timeout)(duration)


def from_main(function):
    """Return, on every process, what function() returns on the main one: only its host must see the run's folder."""
    [found] = broadcast_object_list([function() if PartialState().is_main_process else None])
    return found


def check_hosts(run):
    """Raise a UserError, on all processes, where one has another run than the main one, or alone holds its work."""
    table = run.table
    arrays = table.ids, table.targets, table.folds, table.metadata, table.auxiliary
    check_alike(describe_work(run.config, ("fold", "overwrite"), arrays))
    everyone = gather_object([(platform.node(), run.folder.has_work())])
    for number, (host, has_work) in enumerate(everyone):
        if has_work and not everyone[0][1] and not run.config.overwrite:
            advice = "start that host as the first (--node_rank 0), or share the folder"
            found = f"process {number} (host {host}) holds the run's work, process 0 none"
            raise UserError(f"{run.folder.path}: {found}; {advice}")


def describe_work(config, keys, arrays):
    """Return {name: value} of what decides a result on any host: settings, code, libraries and the rows' arrays.

    keys: of settings, besides those that change what is trained; arrays: (N, ...) each, or None.
    """
    facts = {key: as_word(value_of(config, key)) for key in (*keys, *training_settings())}
    code = (path.read_bytes() for path in sorted((REPOSITORY / "src").rglob("*.py")))
    rows = (np.ascontiguousarray(one).view(np.uint8) for one in arrays if one is not None)
    return facts | {"the code in src": hash_bytes(code), "the table of rows": hash_bytes(rows)} | read_versions()


def hash_bytes(pieces):
    """Return a short hash of several bytes."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()[:12]


def check_alike(facts):
    """Raise a UserError, on all processes, that names the first of the facts in which one differs from the main one."""
    (_, expected), *others = gather_object([(platform.node(), facts)])
    for number, (host, found) in enumerate(others, 1):
        if differing := [key for key in facts if found[key] != expected[key]]:
            key, more = differing[0], f" and {len(differing) - 1} more" if differing[1:] else ""
            differ = f"process {number} (host {host}): {key} is {found[key]}, on process 0 {expected[key]}{more}"
            raise UserError(f"{differ}; give every host the same command, code and tables")
