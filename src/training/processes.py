"""The processes of torchrun that train one fold: how they connect, how long one waits, and what all must have alike."""

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


def check_alike(run):
    """Raise a UserError, on all processes, where one has other settings, code, libraries or rows than the main one."""
    if run.processes.num_processes == 1:
        return
    keys, table = ("fold", "overwrite", *training_settings()), run.table
    facts = {key: as_word(value_of(run.config, key)) for key in keys}
    code = [path.read_bytes() for path in sorted((REPOSITORY / "src").rglob("*.py"))]
    arrays = table.ids, table.targets, table.folds, table.metadata, table.auxiliary
    rows = [np.ascontiguousarray(one).tobytes() for one in arrays if one is not None]
    parts = {"the code in src": code, "the table of rows": rows}
    facts |= {name: hashlib.sha256(b"".join(one)).hexdigest()[:12] for name, one in parts.items()} | read_versions()
    has_work, host = run.folder.has_work(), platform.node()
    everyone = gather_object([(host, has_work, facts)])
    _, main_has_work, expected = everyone[0]
    for number, (host, has_work, found) in enumerate(everyone):
        where = f"process {number} (host {host})"
        if differing := [key for key in facts if found[key] != expected[key]]:
            key, others = differing[0], f" and {len(differing) - 1} more" if differing[1:] else ""
            differ = f"{key} is {found[key]}, on process 0 {expected[key]}{others}"
            raise UserError(f"{where}: {differ}; give every host the same command, code and tables")
        if has_work and not main_has_work and not run.config.overwrite:
            advice = "start that host as the first (--node_rank 0), or share the folder"
            raise UserError(f"{run.folder.path}: {where} holds the run's work, process 0 none; {advice}")
