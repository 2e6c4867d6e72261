"""Reads a gpumig image as docs/image_format.md describes it: a check on that document, independent of the C++ reader.

usage: read_image.py IMAGE_DIRECTORY

Prints one JSON object: the image's digest, its facts, and the BLAKE3-256 and size of each file. Exits 1 with a reason where the image
does not hold. Standard library only; zstd payloads go through the `zstd` program, digests come from `b3sum`.
"""

import json
import os
import re
import struct
import subprocess
import sys

MAX_CHUNK = 4194304
LIMITS = {"manifest": 256 << 20, "facts": 16 << 20, "chunks": 4194304, "files": 65536, "sections": 64}


class Damaged(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Damaged(what)


def blake3(data):
    run = subprocess.run(["b3sum", "--no-names"], input=data, stdout=subprocess.PIPE, check=True)
    return bytes.fromhex(run.stdout.decode("ascii").strip())


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        need(size <= len(self.data) - self.at, "ends early")
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def left(self):
        return len(self.data) - self.at


def read_prefix(data):
    need(len(data) <= LIMITS["manifest"], "manifest too long")
    need(len(data) >= 64, "manifest shorter than its prefix")
    magic, major, _minor, flags, total = struct.unpack("<8sHHIQ", data[:24])
    need(magic == b"GPUMIGIM", "magic")
    need(major == 2, "format version %d, not 2" % major)
    need(total == len(data), "total length")
    need(blake3(data[:24] + data[56:]) == data[24:56], "digest of the manifest")
    need(flags == 0 and data[56:64] == bytes(8), "reserved bytes of the prefix")


def read_sections(data):
    reader, sections, count = Reader(data), {}, 0
    while reader.left():
        count += 1
        tag, flags, length = reader.take(4).decode("ascii"), reader.number(4), reader.number(8)
        need(re.fullmatch("[A-Z]{4}", tag) and flags <= 1 and count <= LIMITS["sections"], "section header")
        content = reader.take(length)
        if tag not in ("FACT", "CHNK", "FILE"):
            need(flags == 0, "unknown critical section " + tag)
            continue
        need(tag not in sections, "section twice: " + tag)
        sections[tag] = content
    need(len(sections) == 3, "missing section")
    return sections


def read_chunks(data):
    reader, chunks = Reader(data), []
    count = reader.number(4)
    need(count <= LIMITS["chunks"] and reader.left() == 40 * count, "chunk count")
    for _ in range(count):
        digest, size, kind, flags, reserved = struct.unpack("<32sIBBH", reader.take(40))
        need(1 <= size <= MAX_CHUNK and kind <= 3 and flags <= 1 and reserved == 0, "chunk entry")
        need((flags == 1) == (digest == bytes(32)), "zero flag and digest")
        chunks.append((None if flags else digest, size))
    return chunks


def read_files(data, chunks):
    reader, files, used = Reader(data), [], set()
    count = reader.number(4)
    need(count <= LIMITS["files"], "file count")
    for _ in range(count):
        name = reader.take(reader.number(4)).decode("ascii")
        mode, size, length = reader.number(4), reader.number(8), reader.number(4)
        need(re.fullmatch(r"[A-Za-z0-9._-]{1,255}", name) and name not in (".", ".."), "file name")
        need(mode <= 0o777 and (not files or files[-1][0] < name), "file entry")
        indexes = [reader.number(4) for _ in range(length)]
        need(all(i < len(chunks) for i in indexes) and sum(chunks[i][1] for i in indexes) == size, "file size")
        used.update(indexes)
        files.append((name, indexes))
    need(reader.left() == 0 and len(used) == len(chunks), "unused chunks or bytes")
    return files



def decompress(frame, size):
    plain = subprocess.run(["zstd", "-dcq"], input=frame, stdout=subprocess.PIPE, check=True).stdout
    need(len(plain) == size, "size of a zstd frame's content")
    return plain


def merge_planes(payload, width, size):
    reader, plain = Reader(payload), bytearray(size)
    plane_size = size // width
    need(plane_size > 0, "byte planes of less than an element")
    stored = [reader.number(4) for _ in range(width)]
    for plane, length in enumerate(stored):
        need(length <= plane_size, "size of a byte plane")
        body = reader.take(length)
        if length == 0:
            body = bytes(plane_size)
        elif length < plane_size:
            body = decompress(body, plane_size)
        plain[plane:plane_size * width:width] = body
    rest = reader.left()
    need(rest == size % width, "bytes behind the byte planes")
    plain[size - rest:] = reader.take(rest)
    return bytes(plain)


def decode_payload(codec, payload, size):
    if codec == 1:
        return decompress(payload, size)
    if codec == 2:
        need(not payload, "payload of a chunk of zeros")
        return bytes(size)
    if codec in (3, 4):
        return merge_planes(payload, {3: 2, 4: 4}[codec], size)
    return payload


def read_chunk(directory, digest, size):
    if digest is None:
        return bytes(size)
    name = digest.hex()
    path = os.path.join(directory, "chunks", name[:2], name)
    need(os.path.isfile(path) and not os.path.islink(path), "chunk %s is missing" % name)
    with open(path, "rb") as file:
        data = file.read(24 + MAX_CHUNK + 1)
    need(len(data) >= 24, "chunk %s is cut" % name)
    magic, version, codec, reserved, plain, stored, tail = struct.unpack("<8sHBBIII", data[:24])
    need((magic, version, reserved, tail) == (b"GPUMIGCH", 1, 0, 0), "chunk header of " + name)
    need(plain == size and stored == len(data) - 24 and codec <= 4, "chunk sizes of " + name)
    payload = decode_payload(codec, data[24:], size)
    need(len(payload) == size and blake3(payload) == digest, "content of chunk " + name)
    return payload


def main(directory):
    with open(os.path.join(directory, "manifest"), "rb") as file:
        data = file.read(LIMITS["manifest"] + 1)
    read_prefix(data)
    sections = read_sections(data[64:])
    need(len(sections["FACT"]) <= LIMITS["facts"], "facts too long")
    chunks = read_chunks(sections["CHNK"])
    files = {}
    for name, indexes in read_files(sections["FILE"], chunks):
        plain = b"".join(read_chunk(directory, *chunks[index]) for index in indexes)
        files[name] = {"blake3": blake3(plain).hex(), "bytes": len(plain)}
    facts = json.loads(sections["FACT"].decode("utf-8"))
    print(json.dumps({"image_digest": blake3(data).hex(), "facts": facts, "files": files}))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (Damaged, OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit("%s: %s" % (sys.argv[1], error))
