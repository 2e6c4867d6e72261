"""The two nodes that all peers move between: scripts/two-nodes, and what is shared between them."""

import json
import os
import shutil
import subprocess
import tempfile

from . import processes
from .processes import Unavailable


class Nodes:
    """Up as long as the `with` lasts. Its work directory is memory, as are all images; the agents' state is on disk."""

    def __init__(self, repository, build):
        self.repository = repository
        self.build = build
        self.criu = find_criu()
        self.gpumig = os.path.join(build, "cli/gpumig")
        self.job = os.path.join(build, "bench/bench_job")
        self._count = 0

    def __enter__(self):
        self.disk = tempfile.mkdtemp(prefix="gpumig-bench-", dir="/var/tmp")
        self.memory = tempfile.mkdtemp(prefix="gpumig-bench-", dir="/dev/shm")
        self._directory = os.path.join(self.disk, "nodes")
        try:
            self._two_nodes("up", self._directory, "--build", self.build, "--gpus", "0", "--setting", "cache_bytes = 0")
            self._pids = {node: int(read(f"{self._directory}/{node}/pid")) for node in ("node-a", "node-b")}
            self.idle_kib = {node: processes.status_kib(self.agent_pid(node), "VmRSS") for node in self._pids}
            self._addresses = self._find_addresses()
            self._make_certificate()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if os.path.exists(self._directory):
            self._two_nodes("down", self._directory)
        shutil.rmtree(self.disk, ignore_errors=True)
        shutil.rmtree(self.memory, ignore_errors=True)

    def _two_nodes(self, *arguments):
        # Through a file: what it starts in the background would hold a pipe open.
        with tempfile.TemporaryFile("w+") as said:
            command = [os.path.join(self.repository, "scripts/two-nodes"), *arguments]
            if subprocess.run(command, stdin=processes.NULL, stdout=said, stderr=said).returncode != 0:
                said.seek(0)
                raise SystemExit(f"bench: two-nodes {arguments[0]} failed: {processes.last_words(said.read())}")

    def _find_addresses(self):
        shared = os.path.join(self._directory, "shared-network")
        self.shares_network = os.path.exists(shared)
        if self.shares_network:
            return {"node-a": "127.0.0.1", "node-b": "127.0.0.1"}
        return {"node-a": "10.77.0.1", "node-b": "10.77.0.2"}

    def _make_certificate(self):
        """One for all peers that speak TLS, which is its own authority."""
        self.certificate, self.key = f"{self.memory}/cert.pem", f"{self.memory}/key.pem"
        names = ",".join(f"IP:{address}" for address in sorted(set(self._addresses.values())))
        processes.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                       "-days", "2", "-subj", "/CN=bench", "-addext", f"subjectAltName={names}",
                       "-keyout", self.key, "-out", self.certificate])

    def address(self, node):
        return self._addresses[node]

    def on(self, node, *argv):
        """The command that does `argv` in a node."""
        kinds = ["--mount", "--uts"] + ([] if self.shares_network else ["--net"])
        return ["nsenter", "--target", str(self._pids[node]), *kinds, *argv]

    def ask_gpumig(self, node, *arguments, limit_s=300):
        """The JSON that a gpumig command answers with."""
        command = self.on(node, self.gpumig, "--json", *arguments)
        try:
            done = subprocess.run(command, stdin=processes.NULL, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"gpumig {arguments[0]} did not end within {limit_s} s") from None
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            raise Unavailable(f"gpumig {arguments[0]} failed: {processes.last_words(done.stderr)}") from None
        if answer.get("result") != "ok":
            raise Unavailable(f"gpumig {arguments[0]}: {answer.get('error', {}).get('message', done.stderr)}")
        return answer

    def agent_pid(self, node):
        return int(read(f"{self._directory}/{node}/gpumigd.pid"))

    def new_name(self, what):
        self._count += 1
        return f"{what}-{self._count}"

    def new_directory(self, what):
        """In memory; `remove` it."""
        directory = os.path.join(self.memory, self.new_name(what))
        os.mkdir(directory)
        return directory

    @staticmethod
    def remove(*directories):
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


def find_criu():
    own = os.path.join(os.environ.get("GPUMIG_CRIU_PREFIX", "/opt/gpumig/criu"), "sbin/criu")
    return own if os.access(own, os.X_OK) else shutil.which("criu")


def read(path):
    with open(path) as file:
        return file.read().strip()


def available_mib():
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0
