"""One fold over two hosts: two network namespaces joined by a cable, a torchrun agent in each, gloo between them."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from src.config.settings import REPOSITORY
from tests.launch import TINY, run_program

_HAS_NAMESPACES = os.geteuid() == 0 and shutil.which("ip") and not os.system("ip netns add probe && ip netns del probe")
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not _HAS_NAMESPACES, reason="network namespaces need root and iproute2"),
]

# What has a state of its own: dropout, mixing, accumulation, an average, a schedule; saved every tenth step.
WORDS = [
    *TINY, "fold=0", "device=cpu", "train.epochs=6", "train.max_images=224", "train.batch_size=4", "mix.prob=0.5",
    "model.drop_rate=0.2", "train.average=ema", "train.average_kwargs.decay=0.9", "optimizer.accumulate_steps=2",
    "schedule.name=onecycle", "checkpoint_minutes=0",
]  # fmt: skip
RESULTS = ("fold0/last.safetensors", "fold0/val.csv", "oof.csv")
GONE = (
    "error: another process of this run has ended or does not answer; run the same command again (without "
    "overwrite=true), on every host, to resume"
)
# train.py, which loses patience with another process after ten seconds instead of minutes
IMPATIENT = """
import sys
from datetime import timedelta
import src.training.run
src.training.run.WORKING = timedelta(seconds=10)
from train import main
main(sys.argv[1:])
"""


class Hosts:
    """Two hosts, 0 and 1, with addresses 10.77.0.1 and 10.77.0.2."""

    def __init__(self, folder):
        self.folder, self._ports = folder, itertools.count(29600)
        self.names = [f"host{number}_{os.getpid()}" for number in (0, 1)]
        for name in self.names:
            self._ip("netns", "add", name)
        self._ip(
            "link", "add", "cable", "netns", self.names[0], "type", "veth", "peer", "cable", "netns", self.names[1]
        )
        for number, name in enumerate(self.names, 1):
            self._ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            for device in ("lo", "cable"):
                self._ip("-n", name, "link", "set", device, "up")

    def _ip(self, *words):
        return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

    def close(self):
        for number, name in enumerate(self.names):
            self.kill(number)
            self._ip("netns", "del", name)

    def kill(self, number):
        """Kill all that runs on a host."""
        for pid in self._ip("netns", "pids", self.names[number]).split():
            os.kill(int(pid), signal.SIGKILL)

    def unplug(self, is_plugged=False):
        self._ip("-n", self.names[0], "link", "set", "cable", "up" if is_plugged else "down")

    def start(self, *words, folders=None, rendezvous="static", program=REPOSITORY / "train.py", other_words=None):
        """Start torchrun on both hosts, in `folders`; return their agents, with the path of what each prints."""
        port, agents = next(self._ports), []
        for number, name in enumerate(self.names):
            folder = (folders or (self.folder, self.folder))[number]
            place = {
                "static": ["--node_rank", str(number), "--master_addr", "10.77.0.1", "--master_port", str(port)],
                "c10d": ["--rdzv_backend", "c10d", "--rdzv_id", "run", "--rdzv_endpoint", f"10.77.0.1:{port}",
                         "--local_addr", f"10.77.0.{number + 1}", "--rdzv_conf", f"is_host={1 - number}"],
            }[rendezvous]  # fmt: skip
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", *place]
            log = self.folder / f"{port}_{number}.log"
            chosen = other_words if number and other_words is not None else words
            with open(log, "w") as file:
                command = ["ip", "netns", "exec", name, *torchrun, str(program), *chosen]
                environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
                agent = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env=environment)
            agent.log = log
            agents.append(agent)
        return agents

    def train(self, *words, **how):
        """Train on both hosts to the end; return what each has printed."""
        agents = self.start(*words, **how)
        assert [agent.wait(timeout=300) for agent in agents] == [0, 0], said(agents[0]) + said(agents[1])
        return [agent.log.read_text() for agent in agents]


def said(agent):
    """Return what a host's train.py has printed: what torchrun adds begins with W, E or its own traceback."""
    text = agent.log.read_text()
    return re.split(r"^(?:[WE]\d{4} |Traceback)", re.sub(r"^\[W.*\n|^W\d{4} .*\n", "", text, flags=re.M), flags=re.M)[0]


def wait_for(path, agents):
    while not path.exists():
        assert all(agent.poll() is None for agent in agents), said(agents[0]) + said(agents[1])
        time.sleep(0.01)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    hosts = Hosts(tmp_path_factory.mktemp("hosts"))
    yield hosts
    hosts.close()


@pytest.fixture(scope="module")
def undisturbed(hosts):
    """outputs/whole, by one host with two processes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    run_program("train.py", *WORDS, "name=whole", cwd=hosts.folder, launcher=launcher)
    return hosts.folder / "outputs/whole"


def assert_same(run, other):
    for name in RESULTS:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
def test_two_hosts_train_what_one_host_with_two_processes_does(hosts, undisturbed, rendezvous):
    hosts.train(*WORDS, f"name={rendezvous}", rendezvous=rendezvous)
    assert_same(undisturbed, hosts.folder / "outputs" / rendezvous)


def stop_one(hosts, agents):
    agents[1].terminate()
    return 143, "fold 0: stopped by another process after "


def stop_both(hosts, agents):
    for agent in agents:
        agent.terminate()
    return 143, "fold 0: stopped by SIGTERM after "


def kill_workers(hosts, agents):
    hosts.kill(1)
    return 2, GONE


def kill_first(hosts, agents):
    hosts.kill(0)
    agents.reverse()
    return 2, GONE


def lose(hosts, agents):
    hosts.unplug()
    hosts.kill(1)
    return 2, GONE


@pytest.mark.parametrize("disturb", [stop_one, stop_both, kill_workers, kill_first, lose])
def test_a_host_that_is_stopped_killed_or_lost_ends_the_other_and_both_resume(hosts, undisturbed, disturb):
    name = disturb.__name__
    (hosts.folder / "impatient.py").write_text(IMPATIENT)
    run, words = hosts.folder / "outputs" / name, [*WORDS, f"name={name}"]
    agents = hosts.start(*words, program=hosts.folder / "impatient.py")
    wait_for(run / "fold0/state_0001_000020.pt", agents)
    _, line = disturb(hosts, agents)
    began = time.monotonic()
    assert agents[0].wait(timeout=60) != 0
    took = time.monotonic() - began
    agents[1].wait(timeout=60)
    hosts.unplug(is_plugged=True)
    printed = said(agents[0])
    print(f"\n{name}: the other host ended after {took:.1f} s\n{printed}")
    assert printed.rstrip().splitlines()[-1].startswith(line)
    assert not (run / "fold0/meta.json").exists()
    assert "fold 0: resumes after" in hosts.train(*words)[0]
    assert_same(undisturbed, run)
