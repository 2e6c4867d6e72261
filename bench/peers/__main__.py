"""scripts/bench, after everything is built: measures, prints the ratios, and ends with one JSON object.

In rounds: each measures every row once, one after the other, so that a host that becomes slower meanwhile does so for
all. What a round could not measure is left out, with the reason.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time

from . import checkpoints, criu, figures, gpumig, moves, plot, programs
from .https import HttpsDrop
from .lazy_pages import BigPipes, move_by_lazy_pages
from .nodes import Nodes, available_mib
from .page_server import move_by_page_server
from .podman import Podman
from .processes import Unavailable
from . import script

QUICK_ROUNDS_S = 200
LIVE_DIRTY_PERCENT = 1


class Plan:
    """What is moved, in MiB, and how often."""

    def __init__(self, arguments):
        self.quick = arguments.quick
        self.rounds_s = arguments.minutes * 60 if arguments.minutes else QUICK_ROUNDS_S if self.quick else math.inf
        self.move = arguments.mib or (256 if self.quick else 2048)
        self.runs = arguments.runs or (3 if self.quick else 5)
        self.checkpoint = self.live = 2 * self.move
        self.growth = [max(1, self.move // 8), self.move // 2, 2 * self.move]
        self.peak = 4 * self.move
        self.plotted = [self.move // 8, self.move // 2] if arguments.plot else []
        self.kinds = ("random", "bf16", "half-zero")
        self.sparse = None if self.quick else 8 * self.move


class Results:
    """Every run of every peer, and what could not be measured."""

    def __init__(self, only=None):
        self.only = only
        self.runs = {}  # (peer, mib) -> [row of a run]
        self.skipped = {}

    def measure(self, peer, mib, memory_factor, work, what=""):
        """One run of `work`, unless it failed before or the host has too little memory for it."""
        if self.only and not peer.startswith(tuple(self.only)):
            return
        label = f"{peer}{what} {mib} MiB"
        if label in self.skipped:
            return
        needed = memory_factor * mib + 512
        if available_mib() < needed:
            self.skip(label, f"needs {needed} MiB of memory, {available_mib()} are available")
            return
        begin = time.monotonic()
        try:
            row = work()
        except Unavailable as error:
            self.skip(label, str(error))
            return
        except (OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
            # An answer that nobody expected: one row less, not the end of hours of measuring.
            self.skip(label, f"{type(error).__name__}: {error}")
            return
        self.runs.setdefault((peer, mib), []).append(row)
        shown = ", ".join(f"{key} {value:.1f}" for key, value in row.items() if isinstance(value, (int, float)))
        print(f"{label}: {shown}   ({time.monotonic() - begin:.1f} s)", file=sys.stderr)

    def skip(self, label, reason):
        self.skipped[label] = reason
        print(f"{label}: not measured: {reason}", file=sys.stderr)

    def medians(self, peer, mib):
        rows = self.runs.get((peer, mib), [])
        keys = [key for key in (rows[0] if rows else {}) if isinstance(rows[0][key], (int, float))]
        result = {key: round(figures.median([row[key] for row in rows]), 3) for key in keys}
        if rows:
            result["runs"] = len(rows)
            result["spread_ms"] = [round(find(row[keys[0]] for row in rows), 1) for find in (min, max)]
        return result


def movers(nodes, drop, podman):
    """{peer: function of (mib, job's options) that measures one stop-and-copy}."""
    result = {
        "gpumig": lambda mib, **job: gpumig.stop_and_copy(nodes, mib, **job),
        "script_piped": lambda mib, **job: moves.measure(nodes, script.piped(drop), mib, **job),
        "script_sequential": lambda mib, **job: moves.measure(nodes, script.one_after_another(drop), mib, **job),
        "page_server_tls": lambda mib, **job: moves.measure(nodes, move_by_page_server(drop), mib, **job),
    }
    if podman is not None:
        result["podman"] = lambda mib, **job: moves.measure(nodes, podman.move(drop), mib, starter=podman.start, **job)
    return result


def measure_round(nodes, drop, podman, plan, results):
    for kind in plan.kinds:
        for peer, work in (("criu", checkpoints.by_criu), ("gpumig", checkpoints.by_gpumig)):
            results.measure(f"{peer}_checkpoint_{kind}", plan.checkpoint, 3, lambda: work(nodes, plan.checkpoint, kind))
    for peer, move in movers(nodes, drop, podman).items():
        results.measure(peer, plan.move, 4, lambda: move(plan.move))
    live_job = {"dirty_percent": LIVE_DIRTY_PERCENT, "touches": moves.TOUCHES}
    results.measure("gpumig_stop_at_live_size", plan.live, 3, lambda: gpumig.stop_and_copy(nodes, plan.live, **live_job))
    results.measure("gpumig_live", plan.live, 3, lambda: gpumig.live(nodes, plan.live, **live_job))
    results.measure("lazy_pages_tls", plan.live, 3,
                    lambda: moves.measure(nodes, move_by_lazy_pages(drop), plan.live, **live_job))
    for mib in plan.growth:
        if mib != plan.move:
            results.measure("gpumig", mib, 3, lambda: gpumig.stop_and_copy(nodes, mib))


def measure_for_plot(nodes, drop, podman, plan, results):
    for mib in plan.plotted:
        for peer, move in movers(nodes, drop, podman).items():
            if peer != "gpumig":
                results.measure(peer, mib, 4, lambda: move(mib))
        results.measure("gpumig_live", mib, 3,
                        lambda: gpumig.live(nodes, mib, dirty_percent=LIVE_DIRTY_PERCENT, touches=moves.TOUCHES))
        results.measure("lazy_pages_tls", mib, 3, lambda: moves.measure(
            nodes, move_by_lazy_pages(drop), mib, dirty_percent=LIVE_DIRTY_PERCENT, touches=moves.TOUCHES))


def measure_once(nodes, plan, results):
    """What has its repetitions within, or needs none."""
    repetitions = 3 if plan.quick else 10
    for name, work in (("extraction", programs.extraction), ("wire", programs.wire), ("encoding", programs.encoding)):
        results.measure(name, 0, 0, lambda: work(nodes, repetitions))
    results.measure("codec", 0, 0, lambda: programs.codec_worst_vs_best(nodes))
    peak = plan.peak
    while peak > plan.move and available_mib() < 2.3 * peak + 1024:
        peak //= 2
    results.measure("memory", peak, 2, lambda: {"peak_mib": gpumig.peak_mib(nodes, peak), "moved_mib": peak})
    if plan.sparse:
        results.measure("gpumig_sparse", plan.sparse, 0.3, lambda: gpumig.stop_and_copy(nodes, plan.sparse, "sparse"))


def collect_peers(plan, results):
    peers = {}
    for kind in plan.kinds:
        peers[f"checkpoint_{kind}"] = {
            f"{peer}_{key}": value for peer in ("criu", "gpumig")
            for key, value in results.medians(f"{peer}_checkpoint_{kind}", plan.checkpoint).items()}
    for peer in ("gpumig", "script_piped", "script_sequential", "page_server_tls", "podman"):
        peers[peer] = results.medians(peer, plan.move)
    for peer in ("gpumig_stop_at_live_size", "gpumig_live", "lazy_pages_tls"):
        peers[peer] = results.medians(peer, plan.live)
    reports = [row["report"] for row in results.runs.get(("gpumig", plan.move), [])]
    if reports:
        peers["gpumig"]["host_bytes"] = figures.median([report["host_bytes"] for report in reports])
        peers["gpumig"]["downtime_parts_ms"] = reports[-1]["downtime_parts_ms"]
    peers["rates"] = {key: value for name in ("extraction", "wire", "encoding")
                      for row in results.runs.get((name, 0), []) for key, value in row.items()}
    peers["codec"] = next(iter(results.runs.get(("codec", 0), [])), {})
    peers["memory"] = next((rows[0] for (name, _), rows in results.runs.items() if name == "memory"), {})
    peers["cost"] = cost_of(plan, results)
    sparse = results.medians("gpumig_sparse", plan.sparse)
    if sparse:
        peers["gpumig_sparse"] = {"mapped_mib": plan.sparse, **sparse}
    return peers


def cost_of(plan, results):
    points = [(mib, results.medians("gpumig", mib).get("downtime_ms")) for mib in plan.growth]
    points = [(mib, ms) for mib, ms in points if ms is not None]
    if len(points) < 3:
        return {"points": points}
    slope, fixed, r2 = figures.line(points)
    return {"points": points, "ms_per_gib": round(slope * 1024, 1), "fixed_ms": round(fixed, 1), "r2": round(r2, 5)}


def collect_reasons(ratios, results):
    """A reason for each row that has no figure, and all that a peer's run failed with."""
    reasons = dict(results.skipped)
    needs = {"codec_worst_vs_best": "codec", "extract_vs_memcpy": "extraction", "wire_vs_openssl": "wire",
             "live_downtime_vs_stop": "gpumig_live", "live_downtime_vs_lazy": "gpumig_live",
             "live_fullspeed_vs_lazy": "gpumig_live", "peak_mib": "memory"}
    for row, value in ratios.items():
        if value is not None:
            continue
        first = needs.get(row, "")
        causes = [reason for label, reason in results.skipped.items() if label.startswith(first)]
        reasons[row] = causes[0] if causes else "what it compares was not measured"
    return reasons


def series_of(plan, results):
    names = {"gpumig": "gpumig", "gpumig_live": "gpumig --live", "script_piped": "script, piped",
             "script_sequential": "script, step by step", "page_server_tls": "CRIU page server, TLS",
             "podman": "podman export", "lazy_pages_tls": "CRIU lazy pages, TLS"}
    series = {}
    for (peer, mib) in results.runs:
        if peer in names:
            series.setdefault(names[peer], []).append((mib, results.medians(peer, mib)["downtime_ms"]))
    return series


def show(ratios, peers, plan):
    print(f"{'row':<28} {'ratio':>9}   aim")
    for row, value in ratios.items():
        print(f"{row:<28} {'-' if value is None else f'{value:.3f}':>9}   {figures.ROWS.get(row, '<= 1')}")
    for peer in ("gpumig", "script_piped", "script_sequential", "page_server_tls", "podman"):
        if peers[peer]:
            print(f"{peer + f' {plan.move} MiB':<28} {peers[peer]['downtime_ms']:9.0f} ms down, "
                  f"{peers[peer]['total_ms']:.0f} ms in all, {peers[peer]['runs']} runs")


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return {"cpus": os.cpu_count(), "cpu": model, "kernel": platform.release(), "load_before": round(os.getloadavg()[0], 1)}


def parse():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures gpumig beside what else one could use.")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line of stdout")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: under five minutes on two cores")
    parser.add_argument("--plot", action="store_true", help="also draw bench/downtime.svg: downtime by size")
    parser.add_argument("--mib", type=int, help="memory of the job that is moved; other sizes follow (default 2048, quick 256)")
    parser.add_argument("--runs", type=int, help="rounds (default 5, quick at most 3)")
    parser.add_argument("--minutes", type=float, help="no round that would not end within so many")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="PEER,...",
                        help="only peers whose names begin so, as on stderr: gpumig_live,criu_checkpoint_bf16")
    parser.add_argument("--repository", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if any(value is not None and value < 1 for value in (arguments.mib, arguments.runs)):
        parser.error("--mib and --runs are 1 or more")
    if arguments.mib is not None and arguments.mib < 16:
        parser.error("--mib is 16 or more")
    return arguments


def main():
    arguments = parse()
    # So that every `with` gives back what it holds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan, results = Plan(arguments), Results(arguments.only)
    host = machine()
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(Nodes(arguments.repository, arguments.build))
        drop = stack.enter_context(HttpsDrop(nodes))
        stack.enter_context(BigPipes())
        podman = None
        try:
            podman = stack.enter_context(Podman(nodes))
        except Unavailable as error:
            results.skip(f"podman {plan.move} MiB", str(error))
        if not criu.can_tls(nodes):
            for name, mib in (("page_server_tls", plan.move), ("lazy_pages_tls", plan.live)):
                results.skip(f"{name} {mib} MiB", "this CRIU is built without TLS")
        for done in range(plan.runs):
            spent = time.monotonic() - begin
            if done > 0 and spent + spent / done > plan.rounds_s:
                break
            print(f"round {done + 1} of {plan.runs}", file=sys.stderr)
            measure_round(nodes, drop, podman, plan, results)
        measure_once(nodes, plan, results)
        measure_for_plot(nodes, drop, podman, plan, results)
    peers = collect_peers(plan, results)
    ratios = figures.ratios(peers, plan.kinds)
    if arguments.plot:
        drawing = plot.draw(series_of(plan, results), f"Time that a job stands still while it is moved, {host['cpus']} cores")
        if drawing:
            with open(os.path.join(arguments.repository, "bench/downtime.svg"), "w") as file:
                file.write(drawing)
    show(ratios, peers, plan)
    if arguments.json:
        print(json.dumps({"ratios": ratios, "peers": peers, "skipped": collect_reasons(ratios, results), "machine": host,
                          "mib": plan.move, "quick": plan.quick, "seconds": round(time.monotonic() - begin, 1)}))


if __name__ == "__main__":
    main()
