"""The process that is moved (bench_job), and what its log tells: when it stood still, and when it ran again in full."""

import os
import statistics

from . import processes
from .processes import Unavailable

START_LIMIT_S = 180
RESUME_LIMIT_S = 180


class Log:
    """Times in ns, one per tick of about a millisecond."""

    def __init__(self, path):
        self.path = path

    def size(self):
        try:
            return os.path.getsize(self.path)
        except OSError:
            return 0

    def ticks(self):
        with open(self.path) as log:
            text = log.read()
        return [int(line) for line in text[: text.rfind("\n") + 1].split()]

    def await_more(self, bytes_more, limit_s, process=None):
        wanted = self.size() + bytes_more
        processes.wait_until(lambda: self.size() >= wanted, limit_s, "the job to tick on", process)

    def stop(self, after_ns):
        """The longest time without a tick that ended after `after_ns`: the tick before it, and the one after."""
        ticks = self.ticks()
        pairs = [(b - a, a, b) for a, b in zip(ticks, ticks[1:]) if b > after_ns]
        if not pairs:
            raise Unavailable("the job did not tick again")
        return max(pairs)[1:]

    def full_speed_after_ms(self, before, after, window_ns=50_000_000, share=0.8):
        """From the last tick before the stop until it ticks, over a window, at `share` of its pace before; None: not yet.

        """
        ticks = self.ticks()
        earlier = [tick for tick in ticks if before - 1_000_000_000 <= tick <= before]
        if len(earlier) < 10:
            raise Unavailable("the job ticked too little before it was stopped to know its pace")
        gap = statistics.median(b - a for a, b in zip(earlier, earlier[1:]))
        wanted = share * window_ns / gap
        later = [tick for tick in ticks if tick >= after]
        first = 0
        for last, tick in enumerate(later):
            while tick - later[first] > window_ns:
                first += 1
            if last - first + 1 >= wanted:
                return (later[first] - before) / 1e6
        return None

    def cut_at(self, tick):
        """Forgets what came after a tick: a restore wants the log as long as it was at the dump."""
        with open(self.path, "r+") as log:
            text = log.read()
            log.truncate(text.index(f"{tick}\n") + len(f"{tick}\n"))


class Job:
    """One running bench_job, at first in node-a. Use with `with`: in the end it is gone, wherever it runs."""

    def __init__(self, nodes, mib, kind="random", dirty_percent=0, touches=0):
        self.nodes = nodes
        self.mib = mib
        self.log = Log(os.path.join(nodes.memory, nodes.new_name("log")))
        self.arguments = [self.log.path, str(mib), kind, str(dirty_percent), str(touches)]
        self._ends = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in reversed(self._ends):
            end()
        try:
            os.remove(self.log.path)
        except OSError:
            pass

    def at_end(self, end):
        self._ends.append(end)

    def start_plain(self):
        """As a user would; its pid."""
        # Its /dev/null is opened in the node: CRIU dumps no file of a mount that it cannot see.
        process = processes.start(self.nodes.on("node-a", "sh", "-c", 'exec "$0" "$@" </dev/null >/dev/null 2>&1',
                                                self.nodes.job, *self.arguments))
        self.at_end(lambda: processes.end(process))
        self.process = process
        self.await_running(process)
        return process.pid

    def start_by_gpumig(self, node="node-a"):
        """Its name."""
        name = self.nodes.new_name("job")
        pid = self.nodes.ask_gpumig(node, "run", "--name", name, "--gpu", "none", "--",
                                    self.nodes.job, *self.arguments)["pid"]
        self.at_end(lambda: processes.kill_pid(pid))
        self.pid = pid
        self.await_running()
        return name

    def await_running(self, process=None):
        self.log.await_more(20 * 200, START_LIMIT_S, process)

    def await_resumed(self, process=None):
        self.log.await_more(1, RESUME_LIMIT_S, process)
        self.log.await_more(20 * 20, RESUME_LIMIT_S, process)


def warm(nodes, mib):
    """See `touch` of bench_job."""
    processes.run([nodes.job, "touch", str(mib)])
