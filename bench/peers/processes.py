"""Child processes: what a peer runs, with the reason where it fails, and an end for all that was started."""

import os
import signal
import subprocess
import time

NULL = subprocess.DEVNULL


class Unavailable(Exception):
    """Something cannot be measured here; its text says why."""


def run(argv, limit_s=300, **options):
    """Waits for a command and gives its stdout; Unavailable, with the end of what it said, where it fails."""
    try:
        done = subprocess.run(argv, stdin=NULL, capture_output=True, timeout=limit_s, text=True, **options)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name_of(argv)} did not end within {limit_s} s") from None
    if done.returncode != 0:
        raise Unavailable(f"{name_of(argv)} failed ({done.returncode}): {last_words(done.stderr or done.stdout)}")
    return done.stdout


def status_kib(pid, key):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key + ":"))


def start(argv, **options):
    """In a session of its own, without a terminal; `end` it."""
    options = {"stdin": NULL, "stdout": NULL, "stderr": NULL, **options}
    return subprocess.Popen(argv, start_new_session=True, **options)


def end(process):
    """Kills a child of ours and waits for it; what it started in the same session goes too."""
    if process.poll() is None:
        # Its session is its own, so that its number names nobody else's processes.
        for kill, number in ((os.killpg, process.pid), (os.kill, process.pid)):
            try:
                kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass
    process.wait()


def kill_pid(pid, limit_s=30):
    """Of a process that is no child of ours: returns when it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_until(lambda: not is_alive(pid), limit_s, f"the end of process {pid}")


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, limit_s, what, process=None):
    """`process`: one without which it will never come."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise Unavailable(f"{name_of(process.args)} ended ({process.returncode}) before {what}")
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {limit_s} s for {what}")
        time.sleep(0.002)


def name_of(argv):
    """The program and its verb, without what entered a node for it."""
    for at, word in enumerate(argv):
        program = os.path.basename(word)
        if program in ("criu", "gpumig", "podman", "curl", "tar", "openssl", "bash", "bench_job"):
            verbs = [more for more in argv[at + 1:] if not more.startswith(("-", "/"))]
            return " ".join([program, *verbs[:1]]) if program in ("criu", "gpumig") else program
    return os.path.basename(argv[0])


def last_words(text, most=400):
    """CRIU's first error is the cause, and what follows its consequences."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip() and "RLIMIT_NOFILE" not in line]
    return " | ".join(lines[:1] + lines[1:][-2:])[:most]
