"""Starts each job as one task of Ray, the door to it: on this machine, or on the nodes of a cluster."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import joblib

from src.config.settings import REPOSITORY
from src.device import choose_num_workers
from src.errors import UserError, first_line
from src.launchers import LocalLauncher

try:
    import ray
except ImportError:
    raise UserError("launcher=ray: ray is missing; pip install -r requirements-scale.txt") from None

_MOST_RETRIES = 20  # of a task whose worker or node is lost; each resumes from the fold's newest checkpoint
_SENT = ("WEIGHTS", "WANDB_", "HF_", "OMP_", "MKL_", "ONEDNN_", "ATEN_")  # of the environment, by its names' beginnings


class RayLauncher(LocalLauncher):
    """As LocalLauncher, but a slot is a task's share of a node: a GPU where the cluster has one, else CPUs.

    Project, working folder and output_dir have the same paths on all nodes, on a file system that they share.

    Raises:
        UserError: no Ray answers at ray_address, or no node has a task's share.
    """

    def __init__(self, config):
        _connect(config.ray_address)
        try:
            device, share, num_slots, words = _choose_share(config, [one for one in ray.nodes() if one["Alive"]])
        except UserError:
            ray.shutdown()
            raise
        super().__init__([{}] * num_slots, words, device)
        self._task = _build_task(share)

    def __exit__(self, *error):
        try:
            super().__exit__(*error)
        finally:
            ray.shutdown()

    def _start(self, words, job, slot):
        environment = {name: value for name, value in os.environ.items() if name.startswith(_SENT)}
        arguments = words, str(job.log.absolute()), str(job.run_folder), environment, os.getcwd()
        return _Task(self._task.remote(*arguments), job.log)


class _Task:
    """A task, as a Popen."""

    def __init__(self, result, log):
        self._result, self._log = result, log

    def poll(self):
        if not ray.wait([self._result], timeout=0)[0]:
            return None
        try:
            return ray.get(self._result)
        except ray.exceptions.TaskCancelledError:  # before it began
            return -signal.SIGTERM
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            with self._log.open("a", encoding="utf-8") as file:
                print(f"error: launcher=ray: the task failed ({type(cause).__name__}: {first_line(cause)})", file=file)
            return 2

    def terminate(self):
        ray.cancel(self._result)  # a KeyboardInterrupt in the task

    def kill(self):
        ray.cancel(self._result, force=True)


def _build_task(share):
    """Return the task that runs train.py in a worker with its `share` of a node, and returns its exit status."""
    project = str(REPOSITORY)

    @ray.remote(max_retries=_MOST_RETRIES, **share)
    def train(words, log, run_folder, environment, working_folder):  # goes to the worker as it stands
        sys.path.insert(0, project)
        from src.launchers import start_process

        kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # which Ray sets
        process = start_process(words, Path(log), run_folder, kept | environment, working_folder)
        try:
            while process.poll() is None:
                time.sleep(0.2)
        except KeyboardInterrupt:  # _Task.terminate: it saves and ends
            process.terminate()
        return process.wait()

    return train


def _connect(address):
    """Connect to a cluster, or start a Ray of this machine's cores that ends with this process."""
    how = {"address": address or "local", "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        how |= {"num_cpus": joblib.cpu_count(), "include_dashboard": False, "object_store_memory": 100 * 2**20}
    before, named = signal.getsignal(signal.SIGTERM), os.environ.get("RAY_ADDRESS") if address == "auto" else address
    try:
        if named:  # where nothing listens Ray would wait for minutes
            host, _, port = named.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(**how)
    except (OSError, RuntimeError, ValueError) as error:
        advice = "start one (ray start --head), or leave ray_address out"
        raise UserError(f"ray_address={address}: no Ray answers ({first_line(error)}); {advice}") from None
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray's own would end this process before it has saved


def _choose_share(config, nodes):
    """Return (device, a task's share as ray.remote has it, how many the nodes hold, words for all) for ray.nodes()."""
    nodes, asked = [node["Resources"] for node in nodes], config.train.num_workers
    gpus = [int(node.get("GPU", 0)) for node in nodes] if config.device in ("auto", "cuda") else []
    if any(gpus):
        cores = min(node.get("CPU", 1) // count for node, count in zip(nodes, gpus, strict=True) if count)
        words = [f"train.num_workers={choose_num_workers(int(cores), 'cuda')}"] if asked is None else []
        return "cuda", {"num_gpus": 1, "num_cpus": 0}, sum(gpus), words
    if config.device not in ("auto", "cpu"):
        raise UserError(f"device={config.device}: no node of Ray gives it to a task; set device=auto or device=cpu")
    cores, most = joblib.cpu_count(), int(max(node.get("CPU", 0) for node in nodes))
    num_workers = choose_num_workers(cores, "cpu") if asked is None else asked
    threads = config.threads or max(1, cores - num_workers)
    if (needed := threads + num_workers) > most:
        advice = f"set threads={max(1, most - most // 4)} train.num_workers={most // 4}"
        raise UserError(f"launcher=ray: a task takes {needed} CPUs, the largest node has {most}; {advice}")
    num_slots = sum(int(node.get("CPU", 0) // needed) for node in nodes)
    return "cpu", {"num_cpus": needed}, num_slots, [f"threads={threads}", f"train.num_workers={num_workers}"]
