#!/usr/bin/env python3
"""Draws failed-sessions.svg from failed-sessions.csv, which `cargo bench --bench failed_sessions` has measured.

    docs/failed-sessions.py            writes the picture
    docs/failed-sessions.py --check    tells whether it is the one that belongs to the figures
"""

import csv
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA, PICTURE = HERE / "failed-sessions.csv", HERE / "failed-sessions.svg"

# TIME_WAIT on Linux, in seconds, and the ephemeral ports it has by default.
TIME_WAIT, DEFAULT_PORTS = 60, 28232
WAYS = ["direct", "up-imapproxy", "imapool"]
# So that each can be seen where they are one.
DRAWN = ["direct", "imapool", "up-imapproxy"]
NAMES = {"direct": "straight to the server", "up-imapproxy": "up-imapproxy", "imapool": "imapool"}
PANELS = [("logout", "Sessions ended by LOGOUT"), ("hang-up", "Sessions ended by hanging up")]

WIDTH, HEIGHT = 780, 492
TOP, BOTTOM = 168, 376
LEFTS, SPAN = [72, 444], 300

STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de; }
    .text { fill: #1f2328; }
    .soft { fill: #59636e; }
    .grid { stroke: #d8dee4; stroke-width: 1; }
    .axis { stroke: #8c959f; stroke-width: 1.5; }
    .wall { stroke: #59636e; stroke-width: 1.5; stroke-dasharray: 4 4; }
    .line { fill: none; stroke-linejoin: round; stroke-linecap: round; }
    .direct { stroke: #cf222e; } .direct-mark { fill: #cf222e; }
    .up-imapproxy { stroke: #0969da; } .up-imapproxy-mark { fill: #0969da; }
    .imapool { stroke: #1a7f37; } .imapool-mark { fill: #1a7f37; }
    .title { font-size: 21px; font-weight: 600; }
    .name { font-size: 17px; font-weight: 600; }
    .label { font-size: 16px; }
    .tick { font-size: 15px; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #3d444d; }
      .text { fill: #f0f6fc; }
      .soft { fill: #9198a1; }
      .grid { stroke: #2a313c; }
      .axis { stroke: #656c76; }
      .wall { stroke: #9198a1; }
      .direct { stroke: #ff7b72; } .direct-mark { fill: #ff7b72; }
      .up-imapproxy { stroke: #79c0ff; } .up-imapproxy-mark { fill: #79c0ff; }
      .imapool { stroke: #3fb950; } .imapool-mark { fill: #3fb950; }
    }"""

STROKES = {"direct": 6.5, "up-imapproxy": 2.5, "imapool": 6}


def read():
    """Gives {(way, ending): [(sessions a second, failed in %)]}, and the number of ports."""
    points, ports = {}, set()
    with DATA.open(newline="") as file:
        for row in csv.DictReader(file):
            failed = int(row["no_port"]) + int(row["other_failures"])
            point = (float(row["sessions_per_second"]), 100 * failed / int(row["sessions"]))
            points.setdefault((row["way"], row["ending"]), []).append(point)
            ports.add(int(row["ports"]))
    (ports,) = ports
    return {key: sorted(line) for key, line in points.items()}, ports


def mark(way, x, y):
    """A point's mark, of another shape for each way: colours are not for all eyes."""
    if way == "direct":
        return f'<circle class="direct-mark" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
    if way == "up-imapproxy":
        return f'<rect class="up-imapproxy-mark" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    return f'<path class="imapool-mark" d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>'


def text(style, x, y, words, anchor="start"):
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def legend():
    x = 30
    for way in WAYS:
        yield f'<path class="line {way}" stroke-width="{STROKES[way]}" d="M{x} 86h44"/>' + mark(way, x + 22, 86)
        yield text("text label", x + 54, 92, NAMES[way])
        x += 54 + 9 * len(NAMES[way]) + 30


def panel(left, title, lines, ports, last):
    def at(rate, failed):
        return left + SPAN * rate / last, BOTTOM - (BOTTOM - TOP) * failed / 100

    yield text("text name", left, 138, title)
    for percent in range(0, 101, 25):
        _, y = at(0, percent)
        yield f'<path class="{"grid" if percent else "axis"}" d="M{left} {y:.1f}h{SPAN}"/>'
        yield text("soft tick", left - 8, y + 5, f"{percent}&#8239;%", "end")
    wall, _ = at(ports / TIME_WAIT, 0)
    yield f'<path class="wall" d="M{wall:.1f} {TOP - 8}V{BOTTOM}"/>'
    for rate in range(0, int(last) + 1, 5):
        x, _ = at(rate, 0)
        yield text("soft tick", x, BOTTOM + 22, str(rate), "middle")
    for way in DRAWN:
        points = [at(*point) for point in lines[way]]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        yield f'<path class="line {way}" stroke-width="{STROKES[way]}" d="M{path}"/>'
        yield from (mark(way, x, y) for x, y in points)


def draw():
    points, ports = read()
    last = max(rate for line in points.values() for rate, _ in line)
    wall = ports / TIME_WAIT
    worst = {way: max(f for (w, _), line in points.items() if w == way for _, f in line) for way in WAYS}
    parts = [text("text title", 30, 46, "Sessions that fail, in %"), *legend()]
    for left, (ending, title) in zip(LEFTS, PANELS):
        parts += panel(left, title, {way: points[way, ending] for way in WAYS}, ports, last)
    parts += [
        text("soft label", WIDTH / 2, BOTTOM + 48, "sessions begun in a second", "middle"),
        text("soft tick", 30, HEIGHT - 40, f"Front end with {ports} ports, each {TIME_WAIT} s in TIME_WAIT after use. "
             f"Dashed: {ports} / {TIME_WAIT} s = {wall:.1f} a second."),
        text("soft tick", 30, HEIGHT - 18, f"A Linux host has {DEFAULT_PORTS:,} ports by default: "
             f"the same at {DEFAULT_PORTS / ports:.0f} times the rate."),
    ]
    description = (f"Failed sessions over session rate, for a front end with {ports} ports. "
                   + ", ".join(f"{NAMES[way]}: up to {worst[way]:.0f} %" for way in WAYS) + ".")
    body = "\n  ".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title desc" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif">
  <!-- made by failed-sessions.py from failed-sessions.csv -->
  <title id="title">Sessions that fail for want of a port</title>
  <desc id="desc">{description}</desc>
  <style>{STYLE}
  </style>
  <rect class="card" x="4" y="4" width="{WIDTH - 8}" height="{HEIGHT - 8}" rx="10"/>
  {body}
</svg>
"""


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if PICTURE.read_text() == draw() else f"{PICTURE.name} is not what {DATA.name} gives: run {Path(__file__).name}")
    PICTURE.write_text(draw())
