#!/usr/bin/env python3
"""Draws the figures of the part `scale`: scale_svg.py ONE ALL <figures >scale.svg

Figures come as lines of a name, a tab and a number, as scripts/bench/figures.sh keeps them: scale/c64/ONE/rate. ONE and ALL
are how the points on one core and on all of them are named. Only the standard library; the drawing needs nothing from
elsewhere, and has its own background in light and in dark.
"""

import math
import sys

WIDTH, HEIGHT = 470, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 46, 44
STYLE = """
:root { --back: #ffffff; --ink: #1c2024; --soft: #5a6067; --grid: #e6e9ed; --c0: #d97706; --c1: #2563eb; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181c; --ink: #e8eaed; --soft: #a4acb5; --grid: #2b3138; --c0: #f5a94a; --c1: #6ea8fe; }
}
.back { fill: var(--back); } text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.title { font-weight: 600; font-size: 14px; fill: var(--ink); } .grid { stroke: var(--grid); }
.axis { stroke: var(--soft); fill: none; } .line { fill: none; stroke-width: 2; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .f0 { fill: var(--c0); } .f1 { fill: var(--c1); }
"""


def text_of(value):
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def log_ticks(low, high):
    """The powers of ten within, or 1, 2, 5 of each where those are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    return [tick for tick in ticks if low <= tick <= high]


def frame(title, x_name, y_name):
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    return [
        f'<text class="title" x="12" y="20">{title}</text>',
        f'<text x="12" y="38">{y_name}</text>',
        f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_name}</text>',
    ]


def y_ticks(ticks, place):
    drawn = []
    for tick in ticks:
        y = place(tick)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text_of(tick)}</text>')
    return drawn


def lines(title, x_name, y_name, series):
    """Both axes by powers; `series`: of each kind of server its points."""
    points = [point for line in series for point in line]
    drawn = frame(title, x_name, y_name)
    if not points:
        return drawn + [f'<text x="{LEFT + 12}" y="{TOP + 24}">not taken</text>']
    xs = sorted({x for x, _ in points})
    low = min(y for _, y in points) / 1.25
    high = max(max(y for _, y in points) * 1.25, low * 10)
    span = math.log(xs[-1] / xs[0]) if len(xs) > 1 else 1.0

    def x_place(x):
        return LEFT + 14 + (WIDTH - LEFT - RIGHT - 28) * math.log(x / xs[0]) / span

    def y_place(y):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(y / low) / math.log(high / low)

    drawn += y_ticks(log_ticks(low, high), y_place)
    free_from = 0.0
    for x in xs:
        at = x_place(x)
        if at >= free_from:
            drawn.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{text_of(x) if x >= 1e4 else int(x)}</text>')
            free_from = at + 34
    for number, line in enumerate(series):
        if line:
            path = "L".join(f"{x_place(x):.1f} {y_place(y):.1f}" for x, y in line)
            drawn.append(f'<path class="line s{number}" d="M{path}"/>')
        for x, y in line:
            drawn.append(
                f'<circle class="f{number}" cx="{x_place(x):.1f}" cy="{y_place(y):.1f}" r="3">'
                f"<title>{x_name} {x:g}: {y:,.6g} {y_name}</title></circle>"
            )
    return drawn


def bars(title, x_name, y_name, names, series):
    """A pair of bars for each name, from zero."""
    drawn = frame(title, x_name, y_name)
    values = [value for line in series for value in line if value is not None]
    if not values:
        return drawn + [f'<text x="{LEFT + 12}" y="{TOP + 24}">not taken</text>']
    high = max(values) * 1.08

    def y_place(y):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / high

    step = 10 ** math.floor(math.log10(high))
    step = step if high / step >= 3 else step / 4
    drawn += y_ticks([step * n for n in range(1, int(high / step) + 1)], y_place)
    room = (WIDTH - LEFT - RIGHT) / len(names)
    for place, name in enumerate(names):
        x = LEFT + room * place
        drawn.append(f'<text x="{x + room / 2:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{name}</text>')
        for number, line in enumerate(series):
            value = line[place]
            if value is not None:
                y = y_place(value)
                drawn.append(
                    f'<rect class="f{number}" x="{x + room * (0.18 + 0.33 * number):.1f}" y="{y:.1f}" '
                    f'width="{room * 0.3:.1f}" height="{HEIGHT - BOTTOM - y:.1f}"><title>{name}: {value:,.6g} {y_name}</title></rect>'
                )
    return drawn


def main():
    kinds = sys.argv[1:3]
    figures = {}
    for line in sys.stdin:
        name, _, value = line.rstrip("\n").partition("\t")
        try:
            figures[name] = float(value)
        except ValueError:
            continue  # A gap: its point was not taken.

    def series(letter, what, scale=1.0):
        found = [[], []]
        for name, value in figures.items():
            parts = name.split("/")
            if len(parts) == 4 and parts[0] == "scale" and parts[1][:1] == letter and parts[1][1:].isdigit():
                if parts[3] == what and parts[2] in kinds and value > 0:
                    found[kinds.index(parts[2])].append((float(parts[1][1:]), value / scale))
        return [sorted(line) for line in found]

    beside = {"alone": "nothing", "everything": "1 to all", "wallets": "1,000 to one", "kafka": "Kafka", "both": "both"}
    rates = [[figures.get(f"scale/{name}/{kind}/rate") for name in beside] for kind in kinds]
    panels = [
        lines("Single payments", "connections", "payments/s", series("c", "rate")),
        lines("Batches, 4 connections", "transfers a batch", "transfers/s", series("b", "rate")),
        lines("p99 of single payments", "connections", "ms", series("c", "p99_us", 1e3)),
        lines("p99 of batches, 4 connections", "transfers a batch", "ms", series("b", "p99_us", 1e3)),
        lines("Wallets, 64 connections", "wallets", "payments/s", series("w", "rate")),
        bars("Subscribers and Kafka, 64 connections", "what hears along", "payments/s", list(beside.values()), rates),
    ]
    rows = (len(panels) + 1) // 2
    width, height = 2 * WIDTH, rows * HEIGHT + 34
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="How echopay scales, on one core and on all">'
    )
    print(f'<style>{STYLE}</style><rect class="back" width="{width}" height="{height}" rx="8"/>')
    for number, name in enumerate(("server on one core", "server on all cores")):
        x = 16 + 170 * number
        print(f'<rect class="f{number}" x="{x}" y="12" width="14" height="10"/><text x="{x + 20}" y="21">{name}</text>')
    for number, panel in enumerate(panels):
        x, y = WIDTH * (number % 2), 34 + HEIGHT * (number // 2)
        print(f'<g transform="translate({x} {y})">' + "\n".join(panel) + "</g>")
    print("</svg>")


if __name__ == "__main__":
    main()
