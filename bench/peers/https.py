"""Files over TLS 1.3 to the other node, as a script would send them: curl, to a server that unpacks what comes."""

import os
import subprocess
import sys

from . import processes

SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "https_server.py")


class HttpsDrop:
    """The server, in node-b, while the `with` lasts."""

    def __init__(self, nodes):
        self.nodes = nodes

    def __enter__(self):
        self.process = processes.start(
            self.nodes.on("node-b", sys.executable, "-B", SERVER, self.nodes.address("node-b"),
                          self.nodes.certificate, self.nodes.key), stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if not line:
            raise processes.Unavailable("the script's server did not start")
        self.port = int(line)
        return self

    def __exit__(self, *_):
        processes.end(self.process)
        self.process.stdout.close()

    def url(self, path):
        return f"https://{self.nodes.address('node-b')}:{self.port}{path}"

    def curl(self, source, path):
        return ["curl", "-sS", "--fail", "--tlsv1.3", "--cacert", self.nodes.certificate, "-T", source, self.url(path)]

    def send_file(self, source, path):
        processes.run(self.nodes.on("node-a", *self.curl(source, f"/file{path}")))

    def send_directory(self, source, target, pack="zstd -1 -T2 -q"):
        """tar | zstd | curl, unpacked there."""
        words = " ".join(self.curl("-", f"/unpack{target}"))
        processes.run(self.nodes.on("node-a", "bash", "-o", "pipefail", "-c", f"tar -C {source} -c . | {pack} | {words}"))
