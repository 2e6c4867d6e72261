"""CRIU's page server: pages go over TLS straight into images on the target, the rest of the images as the script does."""

from . import criu, processes


def move_by_page_server(drop):
    def move(job, pid):
        nodes = job.nodes
        source, target = nodes.new_directory("dump"), nodes.new_directory("received")
        job.at_end(lambda: nodes.remove(source, target))
        port = str(criu.free_port(nodes, "node-b"))
        address = nodes.address("node-b")
        with open(f"{target}.server.log", "w") as said:
            server = processes.start(
                nodes.on("node-b", nodes.criu, "page-server", "--images-dir", target, "--address", address,
                         "--port", port, *criu.tls(nodes)), stdout=said, stderr=said)
        job.at_end(lambda: processes.end(server))
        await_listening(nodes, "node-b", port, server)
        criu.dump(nodes, pid, source, "--page-server", "--address", address, "--port", port, *criu.tls(nodes))
        job.process.wait()
        drop.send_directory(source, target)
        server.wait(timeout=60)
        criu.restore(job, target)
    return move


def await_listening(nodes, node, port, process):
    """Without a connection: the server would take that for its client."""
    def listens():
        table = processes.run(nodes.on(node, "cat", "/proc/net/tcp", "/proc/net/tcp6"))
        rows = [line.split() for line in table.splitlines()]
        return any(len(row) > 3 and row[1].endswith(f":{int(port):04X}") and row[3] == "0A" for row in rows)

    processes.wait_until(listens, 30, f"port {port}", process)
