"""CRIU's post-copy: the job starts in the target at once and gets its pages over TLS when it touches them, and meanwhile."""

import os
import time

from . import criu, processes
from .nodes import read
from .page_server import await_listening

PIPE_SIZE = "/proc/sys/fs/pipe-max-size"
CAP_SYS_RESOURCE = 24


class BigPipes:
    """The page server of `criu dump --lazy-pages` wants pipes of 4 MiB, which takes CAP_SYS_RESOURCE or this limit.

    Raised for a `with`, only where we lack the capability; put back at its end.
    """

    def __enter__(self):
        self.before = None
        with open("/proc/self/status") as status:
            able = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
        with open(PIPE_SIZE) as limit:
            now = limit.read().strip()
        if not able >> CAP_SYS_RESOURCE & 1 and int(now) < 4 << 20:
            self.before = now
            self._set(str(4 << 20))
        return self

    def __exit__(self, *_):
        if self.before is not None:
            self._set(self.before)

    @staticmethod
    def _set(value):
        try:
            with open(PIPE_SIZE, "w") as limit:
                limit.write(value)
        except OSError as error:
            raise processes.Unavailable(f"{PIPE_SIZE}: {error.strerror}") from None


def move_by_lazy_pages(drop):
    def move(job, pid):
        nodes = job.nodes
        source, target = nodes.new_directory("dump"), nodes.new_directory("received")
        job.at_end(lambda: nodes.remove(source, target))
        port = str(criu.free_port(nodes, "node-a"))
        address = nodes.address("node-a")
        with open(f"{source}.log", "w") as said:
            dump = processes.start(
                nodes.on("node-a", nodes.criu, "dump", "--tree", str(pid), "--images-dir", source, "--lazy-pages",
                         "--address", address, "--port", port, *criu.tls(nodes)), stdout=said, stderr=said)
        job.at_end(lambda: processes.end(dump))
        try:
            await_listening(nodes, "node-a", port, dump)
        except processes.Unavailable as error:
            raise processes.Unavailable(f"{error}: {processes.last_words(read(said.name))}") from None
        drop.send_directory(source, target)
        with open(f"{target}.log", "w") as said:
            daemon = processes.start(
                nodes.on("node-b", nodes.criu, "lazy-pages", "--images-dir", target, "--page-server", "--address", address,
                         "--port", port, *criu.tls(nodes)), stdout=said, stderr=said)
        job.at_end(lambda: processes.end(daemon))
        processes.wait_until(lambda: os.path.exists(os.path.join(target, "lazy-pages.socket")), 30, "lazy-pages.socket",
                             daemon)
        criu.restore(job, target, "--lazy-pages")
        begin = time.monotonic()
        processes.wait_until(lambda: daemon.poll() is not None, 180, "the last page")
        return {"all_pages_after_resume_ms": (time.monotonic() - begin) * 1000}
    return move
