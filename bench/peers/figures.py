"""From raw measurements to what is reported: medians, ratios, and how downtime grows with size."""

import statistics

STOP_AND_COPY = ("script_sequential", "page_server_tls", "podman")  # besides the piped script, which has its own row
ROWS = {
    "checkpoint_frozen_vs_criu": "<= 0.33",
    "restore_vs_criu": "<= 0.33",
    "extract_vs_memcpy": ">= 0.85",
    "downtime_vs_script_piped": "<= 0.25",
    "downtime_vs_best_stopcopy": "<= 0.5",
    "downtime_vs_wire_bound": "<= 1.3",
    "live_downtime_vs_stop": "<= 0.1",
    "live_fullspeed_vs_lazy": "<= 0.25",
    "wire_vs_openssl": ">= 0.9",
    "codec_worst_vs_best": "<= 1.05",
    "peak_mib": "<= 256",
    "cost_linearity_r2": "1, and the fixed part small",
}


def median(values):
    return statistics.median(values) if values else None


def line(points):
    """Least squares of (x, y): slope, where it meets x = 0, R squared. REQUIRES: two different x"""
    xs, ys = zip(*points)
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x in xs)
    start = mean_y - slope * mean_x
    total = sum((y - mean_y) ** 2 for y in ys)
    left = sum((y - start - slope * x) ** 2 for x, y in points)
    return slope, start, 1 - left / total if total else 1.0


def ratio(over, under):
    return None if over is None or not under else over / under


def ratios(peers, kinds):
    """By the rows' short names; None where something it needs was not measured."""
    def get(name, key):
        return (peers.get(name) or {}).get(key)

    def worst(key):
        """Over the kinds of memory; all must be there."""
        all_kinds = [ratio(get(f"checkpoint_{kind}", f"gpumig_{key}"), get(f"checkpoint_{kind}", f"criu_{key}"))
                     for kind in kinds]
        return None if None in all_kinds or not all_kinds else max(all_kinds)

    downtime = get("gpumig", "downtime_ms")
    others = [get(name, "downtime_ms") for name in STOP_AND_COPY]
    others = [other for other in others if other is not None]
    rates = [get("rates", "openssl_gb_s"), get("rates", "encode_random_gb_s")]
    bound_ms = None
    if None not in rates and get("gpumig", "host_bytes"):
        bound_ms = get("gpumig", "host_bytes") / (min(rates) * 1e9) * 1000
    result = {
        "checkpoint_frozen_vs_criu": worst("frozen_ms"),
        "restore_vs_criu": worst("restore_ms"),
        "extract_vs_memcpy": ratio(get("rates", "extraction_gb_s"), get("rates", "memcpy_gb_s")),
        "downtime_vs_script_piped": ratio(downtime, get("script_piped", "downtime_ms")),
        "downtime_vs_best_stopcopy": ratio(downtime, min(others)) if others else None,
        "downtime_vs_wire_bound": ratio(downtime, bound_ms),
        "live_downtime_vs_stop": ratio(get("gpumig_live", "downtime_ms"), get("gpumig_stop_at_live_size", "downtime_ms")),
        "live_downtime_vs_lazy": ratio(get("gpumig_live", "downtime_ms"), get("lazy_pages_tls", "downtime_ms")),
        "live_fullspeed_vs_lazy": ratio(get("gpumig_live", "full_speed_ms"), get("lazy_pages_tls", "full_speed_ms")),
        "wire_vs_openssl": ratio(get("rates", "wire_gb_s"), get("rates", "openssl_gb_s")),
        "codec_worst_vs_best": get("codec", "codec_worst_vs_best"),
        "peak_mib": get("memory", "peak_mib"),
        "cost_linearity_r2": get("cost", "r2"),
    }
    return {name: None if value is None else round(value, 4) for name, value in result.items()}
