"""What all moves have in common: start the job in node-a, let a peer move it to node-b, read the log.

A peer is a function of (job, pid or name) that returns once the job ticks in node-b.
"""

import time

from .job import Job, warm
from .processes import Unavailable

TOUCHES = 200  # pages read per tick: nothing where they are there, 200 faults where they are not
FULL_SPEED_LIMIT_S = 120


def measure(nodes, peer, mib, kind="random", dirty_percent=0, touches=0, starter=Job.start_plain):
    """`starter` gives what the peer calls the job. Measured: downtime_ms; total_ms from the command until the peer was done; with `touches` full_speed_ms, from the stop on."""
    warm(nodes, 3 * mib)
    with Job(nodes, mib, kind, dirty_percent, touches) as job:
        identity = starter(job)
        # Its pace before the stop is taken over a second.
        job.log.await_more(20 * (600 if touches else 100), 120)
        begin = time.time_ns()
        more = peer(job, identity) or {}
        end = time.time_ns()
        last, first = job.log.stop(begin)
        row = {"downtime_ms": (first - last) / 1e6, "total_ms": (end - begin) / 1e6, **more}
        if touches:
            row["full_speed_ms"] = await_full_speed(job.log, last, first)
        return row


def await_full_speed(log, last, first):
    deadline = time.monotonic() + FULL_SPEED_LIMIT_S
    while time.monotonic() < deadline:
        speed = log.full_speed_after_ms(last, first)
        if speed is not None:
            return speed
        time.sleep(0.1)
    raise Unavailable(f"the job was not at full speed again within {FULL_SPEED_LIMIT_S} s")
