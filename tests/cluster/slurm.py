"""A real SLURM of two nodes on one machine: Debian's packages, no systemd, no cgroups, no database.

python tests/cluster/slurm.py FOLDER -- sinfo
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sacct", "scancel", "scontrol", "sinfo")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
NODES = ("n1", "n2")
CPUS, GPUS = 32, 4

CONF = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/sock
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/completed.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0
ReturnToService=2
MinJobAge=3600
KillWait=10
SlurmdTimeout=15
GresTypes=gpu
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES LLN=YES MaxTime=UNLIMITED DefaultTime=10 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Sockets=1 CoresPerSocket={cpus} "
    "ThreadsPerCore=1 RealMemory=256000 Gres=gpu:{gpus}"
)


def missing() -> list[str]:
    """The tools that are not there; root installs them where apt can."""
    lacking = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    if lacking and os.geteuid() == 0 and shutil.which("apt-get"):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "slurm-wlm", "munge"]):
            subprocess.run(["apt-get", *command], env=env, capture_output=True, timeout=300, check=False)
        lacking = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    return lacking


@dataclass
class Slurm:
    """The running bench, its commands' environment, and what its nodes are made of."""

    root: Path
    env: dict[str, str]
    daemons: dict[str, subprocess.Popen]

    @property
    def gpus(self) -> int:
        """Of each node."""
        return len(list((self.root / "dev").iterdir())) or 1

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def start(self, name: str, *command: str) -> None:
        with open(self.root / "log" / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)

    def start_node(self, name: str) -> None:
        shutil.rmtree(self.root / f"spool-{name}", ignore_errors=True)  # of jobs that have gone elsewhere
        (self.root / f"spool-{name}").mkdir()
        self.start(name, "slurmd", "-D", "-N", name)

    def crash_node(self, name: str) -> None:
        """Kill a node's daemon and all that runs on the node, as a power cut does: none lives to tell of another."""
        import psutil

        self.daemons[name].kill()
        self.daemons.pop(name).wait()
        doomed, more = set(), _on_node(name)
        while more:
            for process in more:
                with contextlib.suppress(psutil.Error):
                    process.suspend()
            doomed |= more
            more = _on_node(name) - doomed
        for process in doomed:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def wait_for(self, state: str, nodes: int, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while (told := self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split()).count(state) != nodes:
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected {nodes} nodes {state}, found {told}; logs in {self.root}/log")
            time.sleep(0.1)

    def jobs(self) -> dict[str, dict[str, str]]:
        """What `scontrol` says of every job it remembers, by its number."""
        lines = self.run("scontrol", "-o", "show", "jobs").splitlines()
        found = [dict(pair.partition("=")[::2] for pair in line.split()) for line in lines if line.startswith("JobId=")]
        return {job["JobId"]: job for job in found}


def _on_node(name: str) -> set:
    """The processes of a node's jobs, and the daemons that watch over them."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURMD_NODENAME") == name:
                found |= {process, *(p for p in process.parents() if p.name().startswith("slurmstepd"))}
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _gpus(folder: Path) -> tuple[int, str]:
    """Device files that do nothing, one a GPU; who may not make any gets one GPU a node."""
    folder.mkdir()
    try:
        for number in range(GPUS):
            os.mknod(folder / f"nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError:
        return 1, "/dev/null"
    return GPUS, f"{folder}/nvidia[0-{GPUS - 1}]"


def _configure(root: Path) -> dict[str, str]:
    for name in ("state", "log", "bin", "munge"):
        (root / name).mkdir(parents=True)
    (root / "munge").chmod(0o711)
    key = root / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    gpus, files = _gpus(root / "dev")
    host, (port, *others) = socket.gethostname().split(".")[0], _free_ports(len(NODES) + 1)
    nodes = [NODE.format(name=n, host=host, port=p, cpus=CPUS, gpus=gpus) for n, p in zip(NODES, others, strict=True)]
    text = CONF.format(host=host, port=port, user=getpass.getuser(), root=root, nodes="\n".join(nodes))
    (root / "slurm.conf").write_text(text)
    (root / "gres.conf").write_text(f"Name=gpu File={files}\n")
    (root / "cgroup.conf").write_text("")
    (root / "completed.txt").touch()
    # The plugin's job step drops every SLURM_* variable, and with SLURM_CONF the way to a slurm.conf of our own.
    for tool in ("srun", "squeue", "scontrol"):
        path = root / "bin" / tool
        path.write_text(f'#!/bin/sh\nSLURM_CONF={root}/slurm.conf exec {shutil.which(tool, path=PATH)} "$@"\n')
        path.chmod(0o755)
    own = {"SLURM_CONF": f"{root}/slurm.conf", "PATH": f"{root}/bin:{PATH}"}
    return {k: v for k, v in os.environ.items() if not k.startswith("SLURM")} | own


@contextlib.contextmanager
def slurm(folder: str | Path) -> Iterator[Slurm]:
    """Two idle nodes, and afterwards none of their processes."""
    root = Path(folder).resolve()
    bench = Slurm(root, _configure(root), {})
    munge = root / "munge"
    try:
        bench.start(
            "munged", "munged", "--foreground", "--force", f"--socket={munge}/sock", f"--key-file={munge}/key",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not (munge / "sock").exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"munged did not start: {(root / 'log/munged.log').read_text()}")
            time.sleep(0.05)
        bench.start("slurmctld", "slurmctld", "-D", "-c")
        for name in NODES:
            bench.start_node(name)
        bench.wait_for("idle", len(NODES))
        yield bench
    finally:
        _stop(bench)


def _stop(bench: Slurm) -> None:
    bench.run("scancel", "-u", getpass.getuser())
    deadline = time.monotonic() + 15
    while bench.run("squeue", "-h", "-o", "%i").strip() and time.monotonic() < deadline:
        time.sleep(0.2)
    for name in [n for n in NODES if n in bench.daemons]:
        bench.crash_node(name)
    for daemon in reversed(bench.daemons.values()):
        daemon.terminate()
    for daemon in bench.daemons.values():
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


if __name__ == "__main__":
    if lacking := missing():
        sys.exit(f"not installed: {', '.join(lacking)} (Debian: apt-get install slurm-wlm munge)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ordinary end, which stops the daemons
    given = sys.argv.index("--")
    started = time.monotonic()
    with slurm(sys.argv[1]) as running:
        print(f"two nodes idle after {time.monotonic() - started:.1f} s", flush=True)
        code = subprocess.run(sys.argv[given + 1 :], env=running.env).returncode
        print(f"command ended with {code} after {time.monotonic() - started:.1f} s", flush=True)
    print(f"stopped after {time.monotonic() - started:.1f} s")
    sys.exit(code)
