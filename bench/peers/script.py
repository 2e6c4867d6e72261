"""The script that a user would write: dump, pack, send over TLS, unpack, restore; one after another, or piped."""

import os

from . import criu, processes


def one_after_another(drop):
    def move(job, pid):
        nodes = job.nodes
        source, target = nodes.new_directory("dump"), nodes.new_directory("received")
        packed, arrived = os.path.join(nodes.memory, "image.tar.zst"), os.path.join(nodes.memory, "arrived.tar.zst")
        job.at_end(lambda: nodes.remove(source, target))
        job.at_end(lambda: [os.remove(file) for file in (packed, arrived) if os.path.exists(file)])
        criu.dump(nodes, pid, source)
        job.process.wait()
        processes.run(nodes.on("node-a", "bash", "-o", "pipefail", "-c", f"tar -C {source} -c . | zstd -1 -T2 -q >{packed}"))
        drop.send_file(packed, arrived)
        processes.run(nodes.on("node-b", "tar", "-C", target, "-I", "zstd -d", "-xf", arrived))
        criu.restore(job, target)
    return move


def piped(drop):
    """From tar to untar in one pipe. CRIU's own files come before: it writes to a pipe only with criu-image-streamer."""
    def move(job, pid):
        nodes = job.nodes
        source, target = nodes.new_directory("dump"), nodes.new_directory("received")
        job.at_end(lambda: nodes.remove(source, target))
        criu.dump(nodes, pid, source)
        job.process.wait()
        drop.send_directory(source, target)
        criu.restore(job, target)
    return move
