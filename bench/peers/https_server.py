"""The server of the script that a user would write: unpacks what is PUT to it.

usage: https_server.py ADDRESS CERTIFICATE KEY
Writes its port. PUT /unpack/DIRECTORY takes a .tar.zst into the directory, PUT /file/PATH into a file.
"""


import http.server
import ssl
import subprocess
import sys


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        _, verb, path = self.path.split("/", 2)
        target = None
        if verb == "unpack":
            target = subprocess.Popen(["tar", "-C", f"/{path}", "-I", "zstd -d", "-x"], stdin=subprocess.PIPE)
            sink = target.stdin
        else:
            sink = open(f"/{path}", "wb")
        for piece in self.pieces():
            sink.write(piece)
        sink.close()
        done = target is None or target.wait() == 0
        self.send_response(200 if done else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def pieces(self):
        if "Content-Length" in self.headers:
            yield from self.bytes(int(self.headers["Content-Length"]))
            return
        while True:
            size = int(self.rfile.readline(), 16)
            yield from self.bytes(size)
            self.rfile.readline()
            if size == 0:
                return

    def bytes(self, left):
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 20))
            if not piece:
                raise ConnectionError("the sender went away")
            left -= len(piece)
            yield piece

    def log_message(self, *_):
        pass


def serve(address, certificate, key):
    server = http.server.HTTPServer((address, 0), Receiver)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(*sys.argv[1:4])
