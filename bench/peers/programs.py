"""Rows that our own Google Benchmark programs measure, next to the bound of each."""

import json
import os
import subprocess

from . import processes
from .processes import Unavailable


def rates(nodes, program, pattern, repetitions, min_time_s=0.2):
    """Median bytes per second of each benchmark of a program that matches, by name ("BM_ReadPages/threads:2")."""
    path = os.path.join(nodes.build, "bench", program)
    if not os.access(path, os.X_OK):
        raise Unavailable(f"{program} is not built")
    said = processes.run([path, f"--benchmark_filter={pattern}", f"--benchmark_repetitions={repetitions}",
                          "--benchmark_report_aggregates_only=true", "--benchmark_format=json",
                          f"--benchmark_min_time={min_time_s}"])
    found = {}
    for row in json.loads(said)["benchmarks"]:
        if row.get("aggregate_name") == "median" and "bytes_per_second" in row:
            found[row["run_name"].replace("/real_time", "")] = row["bytes_per_second"]
    if not found:
        raise Unavailable(f"{program} has no benchmark that matches {pattern}")
    return found


def pick(found, name, program):
    if name not in found:
        raise Unavailable(f"{program} measured no {name}, only {', '.join(sorted(found))}")
    return found[name]


def extraction(nodes, repetitions):
    """Reading pages of a stopped process, and copying as many within one: GB/s of two threads each."""
    found = rates(nodes, "page_extraction_bench", "BM_(ReadPages|Memcpy)", repetitions)
    threads = max(int(name.split("threads:")[1]) for name in found)
    read, copy = (pick(found, f"{name}/threads:{threads}", "page_extraction_bench") for name in ("BM_ReadPages", "BM_Memcpy"))
    return {"extraction_gb_s": read / 1e9, "memcpy_gb_s": copy / 1e9, "extraction_threads": threads}


def wire(nodes, repetitions):
    """SendChunks over loopback and the same bytes by plain OpenSSL over as many connections: GB/s."""
    found = rates(nodes, "tls_transfer_bench", "BM_(SendChunks|PlainTls)", repetitions, min_time_s=0.5)
    counts = sorted(int(name.split("/")[1]) for name in found if name.startswith("BM_PlainTls/"))
    if not counts:
        raise Unavailable("tls_transfer_bench measured no BM_PlainTls by connections")
    most = str(counts[-1])
    send, plain = (pick(found, f"{name}/{most}", "tls_transfer_bench") for name in ("BM_SendChunks", "BM_PlainTls"))
    return {"wire_gb_s": send / 1e9, "openssl_gb_s": plain / 1e9, "wire_connections": int(most)}


def encoding(nodes, repetitions):
    """What all cores together encode of random data with what agents use by default: GB/s."""
    found = rates(nodes, "codec_bench", "BM_EncodeRandom/1$", repetitions)
    return {"encode_random_gb_s": next(iter(found.values())) * (os.cpu_count() or 1) / 1e9}


def codec_worst_vs_best(nodes):
    """The line that codec_bench writes of `auto` against the best fixed choice, over data and links."""
    path = os.path.join(nodes.build, "bench", "codec_bench")
    if not os.access(path, os.X_OK):
        raise Unavailable("codec_bench is not built")
    try:
        said = subprocess.run([path, "--links"], stdin=processes.NULL, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        raise Unavailable("codec_bench --links took more than two minutes") from None
    for line in said.stdout.splitlines():
        if '"codec_worst_vs_best"' in line:
            return json.loads(line)
    raise Unavailable("codec_bench --links wrote no line with codec_worst_vs_best")
