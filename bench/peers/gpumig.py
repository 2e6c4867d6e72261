"""gpumig itself: migrate, by stop-and-copy and live, and how much memory its agents take for it."""

import subprocess

from . import moves, processes
from .job import Job
from .processes import Unavailable

KEPT = ("downtime_ms", "total_ms", "downtime_parts_ms", "host_bytes", "sent_bytes", "live")


def migrate(*flags):
    def move(job, name):
        report = job.nodes.ask_gpumig("node-a", "migrate", name, "--to", "node-b", *flags)
        job.at_end(lambda: processes.kill_pid(report["pid"]))
        job.await_resumed()
        return {"report": {key: report[key] for key in KEPT if key in report}, "total_ms": report["total_ms"]}
    return move


def why_not_live(nodes):
    """None where it can."""
    said = subprocess.run([nodes.gpumig, "migrate", "--help"], stdin=processes.NULL, capture_output=True, text=True).stdout
    return None if "--live" in said else "gpumig migrate has no --live"


def stop_and_copy(nodes, mib, kind="random", **job):
    return moves.measure(nodes, migrate(), mib, kind, starter=Job.start_by_gpumig, **job)


def live(nodes, mib, kind="random", **job):
    reason = why_not_live(nodes)
    if reason:
        raise Unavailable(reason)
    return moves.measure(nodes, migrate("--live"), mib, kind, starter=Job.start_by_gpumig, **job)


def peak_mib(nodes, mib):
    """The most that either agent had resident while it moved `mib`, above what it had when it had moved nothing yet."""
    for node in nodes.idle_kib:
        with open(f"/proc/{nodes.agent_pid(node)}/clear_refs", "w") as clear:
            clear.write("5")  # VmHWM begins anew
    stop_and_copy(nodes, mib)
    return max(processes.status_kib(nodes.agent_pid(node), "VmHWM") - idle for node, idle in nodes.idle_kib.items()) / 1024
