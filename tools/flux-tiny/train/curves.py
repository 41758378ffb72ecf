"""Draw the learning curves of a run from its log, as SVG.

    python -m train.curves --run run --out ../../docs/images/flux-tiny-training.svg
    python -m train.curves --log training-log.jsonl --out curves.svg    a log that was kept elsewhere

Above: velocity loss; below: share of object tokens whose shape the layout head tells. Both over the pictures seen, one
line per picture size and choice of tokens. Losses of different lines do not compare, nor those of the stages of one line where
noise levels, target or scenes changed.
"""
import argparse
import itertools
import json
import math
import os

COLORS = ["#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#bbbb44", "#222222", "#999933", "#dd7733", "#8877cc", "#44bb99",
          "#cc99bb", "#996633", "#5500cc", "#005500"]  # again from the first after the last
WIDTH, HEIGHT, LEFT, TOP, GAP, LEGEND = 720, 200, 60, 30, 50, 170


def series(path):
    """{task: [(pictures seen in all, velocity loss, shape told)]}, and the pictures at which stages begin."""
    lines, stages, before = {}, [], None
    with open(path) as f:
        for entry in map(json.loads, f):
            if "losses" not in entry:
                continue
            seen = sum(entry["seen"].values())
            if entry["stage"] != before:
                stages.append((seen, entry["stage"]))
                before = entry["stage"]
            for task, figures in entry["losses"].items():
                lines.setdefault(task, []).append((seen, figures["velocity"], figures["told"]))
    return lines, stages


def ticks(low, high, count=5):
    step = 10 ** math.floor(math.log10((high - low) / count))
    step = next(step * f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= count)
    first = math.ceil(low / step)
    return [(first + k) * step for k in range(int((high - first * step) / step + 1e-9) + 1)]


def panel(lines, stages, column, title, high, top, x_high):
    x = lambda v: LEFT + WIDTH * v / x_high
    y = lambda v: top + HEIGHT * (1 - min(v, high) / high)
    out = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{title}</text>']
    for v in ticks(0, high):
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
    for v in ticks(0, x_high, 8):
        out.append(f'<text x="{x(v):.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{v / 1000:g}k</text>')
    for seen, name in stages:
        out.append(f'<line x1="{x(seen):.1f}" x2="{x(seen):.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="#999" '
                   f'stroke-dasharray="3 3"><title>{name}</title></line>')
    for color, (task, points) in zip(itertools.cycle(COLORS), lines.items()):
        path = " ".join(f"{x(p[0]):.1f},{y(p[column]):.1f}" for p in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--run", default="run")
    ap.add_argument("--log", help="the log; default log.jsonl of the run")
    ap.add_argument("--out", default="curves.svg")
    args = ap.parse_args()
    lines, stages = series(args.log or os.path.join(args.run, "log.jsonl"))
    x_high = max(points[-1][0] for points in lines.values())
    second = TOP + HEIGHT + GAP
    body = panel(lines, stages, 1, "velocity loss", 1.0, TOP, x_high)
    body += panel(lines, stages, 2, "shape told, share of object tokens", 1.0, second, x_high)
    for k, (color, task) in enumerate(zip(itertools.cycle(COLORS), lines)):
        body.append(f'<text x="{LEFT + WIDTH + 12}" y="{TOP + 16 + 18 * k}" fill="{color}">{task}</text>')
    body.append(f'<text x="{LEFT + WIDTH}" y="{second + HEIGHT + 34}" text-anchor="end">pictures seen</text>')
    size = f'width="{LEFT + WIDTH + LEGEND}" height="{second + HEIGHT + 45}"'
    with open(args.out, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
                f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n")


if __name__ == "__main__":
    main()
