"""Checkpoint to memory and restore of the same job: `criu dump` and `criu restore`, and gpumig's."""

import os
import time

from . import criu, processes
from .job import Job, warm


def by_criu(nodes, mib, kind):
    """Time frozen, and time from the command until the job ticks again, both as the job's log shows them."""
    images = nodes.new_directory("criu-image")
    try:
        warm(nodes, 2 * mib)
        with Job(nodes, mib, kind) as job:
            pid = job.start_plain()
            begin = time.time_ns()
            criu.dump(nodes, pid, images, "--leave-running")
            job.await_resumed(job.process)
            last, first = job.log.stop(begin)
            processes.end(job.process)
            job.log.cut_at(last)
            warm(nodes, mib)
            begin = time.time_ns()
            criu.restore(job, images, node="node-a")
            return {"frozen_ms": (first - last) / 1e6, "restore_ms": (job.log.stop(begin)[1] - begin) / 1e6}
    finally:
        nodes.remove(images)


def by_gpumig(nodes, mib, kind):
    images = nodes.new_directory("gpumig-image")
    image = os.path.join(images, "image")
    try:
        warm(nodes, 2 * mib)
        with Job(nodes, mib, kind) as job:
            name = job.start_by_gpumig()
            begin = time.time_ns()
            nodes.ask_gpumig("node-a", "checkpoint", name, "--image", image, "--leave-running", "--live")
            job.await_resumed()
            last, first = job.log.stop(begin)
            processes.kill_pid(job.pid)
            job.log.cut_at(last)
            warm(nodes, mib)
            begin = time.time_ns()
            pid = nodes.ask_gpumig("node-a", "restore", image, "--name", nodes.new_name("job"))["pid"]
            job.at_end(lambda: processes.kill_pid(pid))
            job.await_resumed()
            return {"frozen_ms": (first - last) / 1e6, "restore_ms": (job.log.stop(begin)[1] - begin) / 1e6}
    finally:
        nodes.remove(images)
