"""CRIU by hand: dump to a directory, restore from one."""

import os
import subprocess
import sys

from . import processes
from .nodes import read

TLS_NAMES = ("cacert", "cert", "key")


def dump(nodes, pid, images, *more):
    processes.run(nodes.on("node-a", nodes.criu, "dump", "--tree", str(pid), "--images-dir", images, *more))


def restore(job, images, *more, node="node-b"):
    """Running when this returns, in a pid namespace of its own: its pid may be taken here. It ends with the job."""
    nodes = job.nodes
    with open(os.path.join(images, "restore.out"), "w") as said:
        process = processes.start(
            nodes.on(node, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
                     nodes.criu, "restore", "--images-dir", images, "-v4", "--log-file", "/tmp/bench/dump.log", *more), stdout=said, stderr=said)
    job.at_end(lambda: processes.end(process))
    try:
        job.await_resumed(process)
    except processes.Unavailable as error:
        raise processes.Unavailable(f"{error}: {processes.last_words(read(said.name))}") from None
    return process


def tls(nodes):
    """One certificate on both sides, its own authority; the addresses are in it, but CRIU checks host names only."""
    files = {"cacert": nodes.certificate, "cert": nodes.certificate, "key": nodes.key}
    return ["--tls", "--tls-no-cn-verify"] + [word for name in TLS_NAMES for word in (f"--tls-{name}", files[name])]


def can_tls(nodes):
    """Whether this CRIU was built with TLS: one that was not says so before it looks at anything else."""
    said = subprocess.run([nodes.criu, "check", *tls(nodes)], stdin=processes.NULL, capture_output=True, text=True)
    return "tls" not in (said.stderr + said.stdout).lower() or said.returncode == 0


def free_port(nodes, node):
    """Of a node's network."""
    program = "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])"
    return int(processes.run(nodes.on(node, sys.executable, "-c", program)))
