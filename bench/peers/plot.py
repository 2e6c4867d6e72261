"""Downtime by size, for every peer, as an SVG: both axes logarithmic, one colour and one line for each."""

import math

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#8d5a97", "#5c5c5c", "#2ec4b6", "#a44a3f")


def draw(series, title):
    """`series`: {peer: [(mib, ms)]}. The text of the SVG."""
    points = [point for line in series.values() for point in line]
    if not points:
        return None
    xs, ys = zip(*points)
    x_low, x_high = math.log2(min(xs)), math.log2(max(xs))
    y_low, y_high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) + 1e-9)
    x_low, x_high = (x_low - 1, x_high + 1) if x_low == x_high else (x_low, x_high)

    def x_of(mib):
        return LEFT + (math.log2(mib) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(ms):
        return HEIGHT - BOTTOM - (math.log10(ms) - y_low) / max(1, y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
             'font-size="12">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             text(LEFT, TOP - 16, title, size=14)]
    for exponent in range(y_low, max(y_high, y_low + 1) + 1):
        y = y_of(10**exponent)
        parts += [rule(LEFT, y, WIDTH - RIGHT, y), text(LEFT - 8, y + 4, duration(10**exponent), "end")]
    for mib in sorted(set(xs)):
        x = x_of(mib)
        parts += [rule(x, TOP, x, HEIGHT - BOTTOM), text(x, HEIGHT - BOTTOM + 18, size_of(mib), "middle")]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "memory of the job", "middle"))
    slowest_first = sorted(series.items(), key=lambda item: -max((ms for _, ms in item[1]), default=0))
    for place, (name, line) in enumerate(slowest_first):
        colour = COLOURS[place % len(COLOURS)]
        line = sorted(line)
        path = " ".join(f"{x_of(mib):.1f},{y_of(ms):.1f}" for mib, ms in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_of(mib):.1f}" cy="{y_of(ms):.1f}" r="3.5" fill="{colour}"/>' for mib, ms in line]
        y = TOP + 12 + 20 * place
        parts += [f'<rect x="{WIDTH - RIGHT + 14}" y="{y - 9}" width="12" height="10" fill="{colour}"/>',
                  text(WIDTH - RIGHT + 32, y, name)]
    return "\n".join(parts + ["</svg>", ""])


def text(x, y, words, anchor="start", size=12):
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def rule(x1, y1, x2, y2):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def duration(ms):
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def size_of(mib):
    return f"{mib / 1024:g} GiB" if mib >= 1024 else f"{mib} MiB"
