"""`podman container checkpoint --export`, the file over TLS, `podman container restore --import`; with runc."""

import os
import shutil

from . import processes
from .processes import Unavailable

IMAGE = "localhost/gpumig-bench:1"
CRIU_NAME = "criu"


class Podman:
    """A container store for each node, in memory, while the `with` lasts. Errors: Unavailable, says what is missing."""

    def __init__(self, nodes):
        for program in ("podman", "runc"):
            if shutil.which(program) is None:
                raise Unavailable(f"{program} is not installed; scripts/bootstrap --with bench does it")
        self.nodes = nodes

    def __enter__(self):
        self.directory = self.nodes.new_directory("podman")
        os.mkdir(f"{self.directory}/bin")
        # podman and runc take the first `criu` of PATH.
        os.symlink(self.nodes.criu, f"{self.directory}/bin/{CRIU_NAME}")
        with open(f"{self.directory}/containers.conf", "w") as file:
            file.write('[engine]\nlock_type = "file"\n')  # Those in shared memory would stay behind.
        rootfs = f"{self.directory}/rootfs"
        for name in ("proc", "sys", "dev", "tmp", "logs"):
            os.makedirs(f"{rootfs}/{name}")
        shutil.copy2(self.nodes.job, f"{rootfs}/bench_job")
        processes.run(["tar", "-C", rootfs, "-cf", f"{self.directory}/rootfs.tar", "."])
        try:
            for node in ("node-a", "node-b"):
                self.run(node, "import", f"{self.directory}/rootfs.tar", IMAGE)
        except Unavailable:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in ("node-a", "node-b"):
            store = f"{self.directory}/{node}"
            processes.run(self.nodes.on(node, "sh", "-c", f'awk \'$5 ~ "^{store}" {{ print $5 }}\' /proc/self/mountinfo |'
                                                          " sort -r | xargs -r umount -l"))
        self.nodes.remove(self.directory)

    def command(self, node, *arguments):
        store = f"{self.directory}/{node}"
        return self.nodes.on(
            node, "env", f"PATH={self.directory}/bin:{os.environ['PATH']}",
            f"CONTAINERS_CONF={self.directory}/containers.conf", "podman", "--root", f"{store}/root",
            "--runroot", "/run/bench-podman", "--tmpdir", f"{store}/tmp", "--storage-driver", "vfs", "--runtime", "runc",
            "--cgroup-manager", "cgroupfs", "--events-backend", "file", *arguments)

    def run(self, node, *arguments):
        return processes.run(self.command(node, *arguments))

    def start(self, job):
        """As bench_job would be started by a user of podman; the container's name."""
        name = self.nodes.new_name("bench")
        log = job.log.path
        self.run("node-a", "run", "--detach", "--name", name, "--network", "host", "--ulimit", "nofile=1024:1024",
                 "--ulimit", "nproc=1024:1024", "--log-driver", "none", "--volume", f"{os.path.dirname(log)}:/logs",
                 IMAGE, "/bench_job", f"/logs/{os.path.basename(log)}", *job.arguments[1:])
        job.at_end(lambda: self.remove("node-a", name))
        job.await_running()
        return name

    def remove(self, node, name):
        try:
            self.run(node, "rm", "--force", "--time", "0", name)
        except Unavailable:
            pass  # it was never there, or has gone by itself

    def move(self, drop):
        def move(job, name):
            packed = os.path.join(self.nodes.memory, self.nodes.new_name("container") + ".tar.zst")
            arrived = packed + ".arrived"
            job.at_end(lambda: [os.remove(file) for file in (packed, arrived) if os.path.exists(file)])
            self.run("node-a", "container", "checkpoint", "--export", packed, "--compress", "zstd", name)
            drop.send_file(packed, arrived)
            job.at_end(lambda: self.remove("node-b", name))
            self.run("node-b", "container", "restore", "--import", arrived)
            job.await_resumed()
        return move
