"""Procedural scenes with captions: the only training data of flux-tiny.

`random_scene(rng)` draws a scene description from a small grammar, `caption(scene)` says it in English and
`render(scene, size)` draws it with anti-aliased signed distance functions. All coordinates are fractions of the
picture side (x to the right, y down), so one scene can be rendered at any resolution.
"""
import json
import math
import re
import zlib

import numpy as np

COLORS = {
    "red": (0.86, 0.12, 0.14), "orange": (0.98, 0.55, 0.08), "yellow": (0.98, 0.87, 0.15),
    "green": (0.13, 0.62, 0.22), "cyan": (0.20, 0.80, 0.86), "blue": (0.12, 0.26, 0.82),
    "purple": (0.50, 0.16, 0.68), "pink": (0.98, 0.56, 0.74), "white": (0.97, 0.97, 0.97),
    "black": (0.07, 0.07, 0.08),
}
BACKGROUNDS = dict(COLORS, grey=(0.55, 0.56, 0.58), brown=(0.45, 0.30, 0.18))
SHAPES = ("circle", "square", "triangle", "ring", "star", "cross", "diamond", "heart")
FILLS = ("striped", "checkered", "dotted")
SIZES = {"small": (0.095, 0.115), "": (0.145, 0.175), "large": (0.22, 0.255)}
PLACES = {"at the top left": (0.27, 0.27), "at the top": (0.5, 0.27), "at the top right": (0.73, 0.27),
          "on the left": (0.27, 0.5), "in the middle": (0.5, 0.5), "on the right": (0.73, 0.5),
          "at the bottom left": (0.27, 0.73), "at the bottom": (0.5, 0.73), "at the bottom right": (0.73, 0.73)}
RELATIONS = ("left of", "right of", "above", "below", "inside", "and")
LANDSCAPES = {"over green hills": ("green",), "over the sea": ("blue", "cyan"), "in the night sky": ("black", "blue")}
MAX_TOKENS = 24
SPECIAL = ("<pad>", "<eos>", "<unk>")

# ------------------------------------------------------------------------------------------------------- shapes
# Signed distance (negative inside) in units of the object's radius. `xp` is the library of the arrays: numpy, or torch
# for scene_batch.py.


def _polar_star(x, y, points, inner, xp):
    half = math.pi / points
    rho, ang = xp.hypot(x, y), xp.arctan2(x, -y)
    ang = abs((ang + half) % (2 * half) - half)
    px, py = rho * xp.cos(ang), rho * xp.sin(ang)
    bx, by = inner * math.cos(half), inner * math.sin(half)  # the edge runs from (1, 0) to (bx, by)
    ex, ey = bx - 1, by
    return ((px - 1) * ey - py * ex) / math.hypot(ex, ey)


def sdf(shape, x, y, xp=np):
    if shape == "circle":
        return xp.hypot(x, y) - 0.92
    if shape == "ring":
        return abs(xp.hypot(x, y) - 0.74) - 0.24
    if shape == "square":
        return xp.maximum(abs(x), abs(y)) - 0.82
    if shape == "diamond":
        return (abs(x) * 1.35 + abs(y) - 1.05) / 1.68
    if shape == "triangle":
        return xp.maximum(y - 0.78, (1.86 * abs(x) - y - 1.05) / 2.11)
    if shape == "star":
        return _polar_star(x, y + 0.02, 5, 0.45, xp) - 0.03
    if shape == "cross":
        ax, ay = abs(x), abs(y)
        return xp.maximum(xp.minimum(ax, ay) - 0.31, xp.maximum(ax, ay) - 0.95)
    if shape == "heart":
        ax, s = abs(x), 0.6
        square = (ax + abs(y - 0.05) - s * math.sqrt(2)) / math.sqrt(2)
        lobe = xp.hypot(ax - s / math.sqrt(2), y - 0.05 + s / math.sqrt(2)) - s
        return xp.minimum(square, lobe)
    raise ValueError(shape)


def cover(d, size, xp=np):
    """Anti-aliased coverage of a signed distance given in picture sides."""
    return xp.clip(0.5 - d * size, 0.0, 1.0)


def stripes(u, period, size, xp=np):
    return cover((abs((u / period) % 1.0 - 0.5) - 0.25) * period, size, xp)


# All patterns repeat after so many pixels, which are a token, from the picture's corner on: every token of a patterned
# surface shows the same. Where in a longer period a token is, this net did not learn in 48,000 pictures (README.md).
PERIOD = 8


def pattern(fill, x, y, size, xp=np):
    """Coverage of the second colour; x, y in picture sides from the picture's corner."""
    p = PERIOD / size
    if fill == "striped":
        return stripes(x + y, p, size, xp)
    if fill == "checkered":
        a, b = (stripes(t + p / 4, p, size, xp) for t in (x, y))  # edges at multiples of half a period
        return a + b - 2 * a * b
    if fill == "dotted":
        return cover(xp.hypot((x / p) % 1.0 - 0.5, (y / p) % 1.0 - 0.5) * p - 0.3 * p, size, xp)
    raise ValueError(fill)


# ------------------------------------------------------------------------------------------------------ grammar


def _pick(rng, seq):
    return seq[int(rng.integers(len(seq)))]


# Place and size of an object, the sides of "and" and the curves of landscapes are left to chance within limits; this is
# the part of them that is used. With less chance the picture is decided by fewer guesses at high noise, where a small
# model goes wrong (README.md). Up to a half, the first object of "and" is on the left.
SPREAD = 0.1


def _object(rng, colors, spread, shape=None, size=None, fill_p=0.35):
    size = size if size is not None else _pick(rng, ["small", "", "", "large", "large"])
    fill = _pick(rng, FILLS) if rng.random() < fill_p and size != "small" else ""
    return {"color": _pick(rng, colors), "shape": shape or _pick(rng, SHAPES), "size": size, "fill": fill,
            "r": _radius(rng, size, spread)}


def _radius(rng, size, spread):
    low, high = SIZES[size]
    return (low + high) / 2 + spread * float(rng.uniform(low - high, high - low)) / 2


def _phrase(o, article=True):
    words = " ".join(w for w in (o["size"], o["fill"], o["color"], o["shape"]) if w)
    return ("an " if words[0] in "aeio" else "a ") + words if article else words


def plural(shape):
    return shape + ("es" if shape == "cross" else "s")


def random_scene(rng, spread=SPREAD):
    """A scene: {objects: [{color, shape, size, fill, x, y, r}], layout, relation, background}.

    The same for any `spread` (0 to 1) but for x, y, r and the numbers of a landscape; so is its caption.
    """
    # background
    u = rng.random()
    if u < 0.38:
        bg = {"kind": "plain", "colors": [_pick(rng, list(BACKGROUNDS))]}
        used = bg["colors"]
    elif u < 0.62:
        a = _pick(rng, list(BACKGROUNDS))
        b = _pick(rng, [c for c in BACKGROUNDS if c != a])
        bg = {"kind": "gradient", "colors": [a, b]}
        used = bg["colors"]
    elif u < 0.80:
        bg = {"kind": _pick(rng, FILLS), "colors": [_pick(rng, list(BACKGROUNDS))]}
        used = bg["colors"]
    else:
        bg = {"kind": _pick(rng, list(LANDSCAPES)), "colors": [], "seed": int(rng.integers(1 << 30)), "spread": spread}
        used = LANDSCAPES[bg["kind"]]
    free = [c for c in COLORS if c not in used]
    # objects
    jit = lambda s=0.035: spread * float(rng.uniform(-s, s))
    u = rng.random()
    relation, place = "", ""
    if u < 0.40:
        layout = "one"
        o = _object(rng, free, spread, size=_pick(rng, ["small", "", "", "large", "large", "large", "large"]), fill_p=0.4)
        if rng.random() < 0.5:
            place = _pick(rng, list(PLACES))
            o["x"], o["y"] = PLACES[place][0] + jit(), PLACES[place][1] + jit()
        else:
            o["x"], o["y"] = 0.5 + jit(0.06), 0.5 + jit(0.06)
        objects = [o]
    elif u < 0.75:
        layout = "two"
        relation = _pick(rng, RELATIONS)
        if relation == "inside":
            b = _object(rng, free, spread, shape=_pick(rng, ("circle", "square", "diamond", "heart")), size="large", fill_p=0.0)
            a = _object(rng, [c for c in free if c != b["color"]], spread, size="small")
            b["r"] *= 1.25
            b["x"], b["y"] = 0.5 + jit(0.08), 0.5 + jit(0.08)
            a["x"], a["y"] = b["x"] + jit(0.01), b["y"] + jit(0.01)
        else:
            a, b = _object(rng, free, spread), _object(rng, free, spread)
            if a["size"] == b["size"] == "large":
                b.update(size="", r=_radius(rng, "", spread))
            gap, mid = 0.08 + jit(0.025), 0.5 + jit(0.03)
            half = (a["r"] + b["r"] + gap) / 2
            sides = "left of", "right of", "above", "below"
            rel = sides[round(spread * int(rng.integers(2)))] if relation == "and" else relation
            pa, pb = mid - half, mid + half
            shift = (b["r"] - a["r"]) / 2
            pa, pb = pa - shift, pb - shift
            if rel in ("right of", "below"):
                pa, pb = 1 - pa, 1 - pb
            qa, qb = 0.5 + jit(0.06), 0.5 + jit(0.06)
            if rel in sides[:2]:
                a["x"], a["y"], b["x"], b["y"] = pa, qa, pb, qb
            else:
                a["x"], a["y"], b["x"], b["y"] = qa, pa, qb, pb
        objects = [a, b]
    elif u < 0.87:
        layout = "count"
        n = 2 + int(rng.integers(3))
        o = _object(rng, free, spread, size=_pick(rng, ["small", ""]) if n < 4 else "small")
        spots = {2: [(0.28, 0.5), (0.72, 0.5)], 3: [(0.2, 0.5), (0.5, 0.5), (0.8, 0.5)],
                 4: [(0.3, 0.3), (0.7, 0.3), (0.3, 0.7), (0.7, 0.7)]}[n]
        if n == 3 and o["size"] == "":
            spots = [(0.5, 0.27), (0.27, 0.7), (0.73, 0.7)]
        objects = [dict(o, x=sx + jit(0.02), y=sy + jit(0.02)) for sx, sy in spots]
    else:
        layout = _pick(rng, ("row", "column"))
        objects = [_object(rng, free, spread, size="", fill_p=0.0) for _ in range(3)]
        if rng.random() < 0.4:
            _pick(rng, objects)["fill"] = _pick(rng, FILLS)
        for i, o in enumerate(objects):
            o["r"] *= 0.84
            p, q = 0.19 + 0.31 * i + jit(0.012), 0.5 + jit(0.03)
            o["x"], o["y"] = (p, q) if layout == "row" else (q, p)
    return {"layout": layout, "relation": relation, "place": place, "objects": objects, "background": bg}


NUMBERS = {2: "two", 3: "three", 4: "four"}


def caption(scene):
    o, bg = scene["objects"], scene["background"]
    if scene["layout"] == "one":
        text = _phrase(o[0]) + (" " + scene["place"] if scene["place"] else "")
    elif scene["layout"] == "two":
        text = f"{_phrase(o[0])} {scene['relation']} {_phrase(o[1])}"
    elif scene["layout"] == "count":
        text = f"{NUMBERS[len(o)]} {_phrase(dict(o[0], shape=plural(o[0]['shape'])), article=False)}"
    else:
        text = f"{_phrase(o[0])} , {_phrase(o[1])} and {_phrase(o[2])} in a {scene['layout']}"
    kind = bg["kind"]
    if kind in LANDSCAPES:
        return f"{text} {kind}"
    if kind == "gradient":
        return f"{text} on a {bg['colors'][0]} to {bg['colors'][1]} gradient background"
    words = " ".join(([] if kind == "plain" else [kind]) + bg["colors"] + ["background"])
    return f"{text} on {'an' if words[0] in 'aeio' else 'a'} {words}"


HELD_OUT = 20  # one caption in 20 is never trained on, neither by the transformer nor by the text encoder


def held_out(text):
    """Whether a caption is kept for evaluation: decided by its words, so that no run can see it by chance."""
    return zlib.crc32(text.encode()) % HELD_OUT == 0


def split_scene(rng, evaluation):
    """A random scene whose caption is never trained on (for evaluation), or one whose caption may be."""
    while held_out(caption(scene := random_scene(rng))) != evaluation:
        pass
    return scene


# ----------------------------------------------------------------------------------------------------- renderer


def _mix(img, color, alpha):
    return img + (np.float32(color) - img) * alpha[..., None]


SHADE = 0.13  # an object's colour at its bottom is this much darker than at its top
HILLS = ((0.66, 0.05, (0.45, 0.70, 0.35)), (0.80, 0.04, (0.22, 0.52, 0.22)))  # height, amplitude, colour
HILL_CURVES = ((6.0, 1.2), (7.5, 4.4))  # frequency and phase, where they are not left to chance
HORIZON, WAVES = 0.66, ((0.10, 0.36, 0.62), (0.20, 0.52, 0.74))
STARS, STAR_RADIUS, STAR_COLOR = 26, 0.009, (1, 0.97, 0.85)
SKIES = {"over green hills": ((0.42, 0.70, 0.95), (0.86, 0.94, 0.99)),
         "over the sea": ((0.98, 0.72, 0.48), (0.99, 0.90, 0.72)), "in the night sky": ((0.03, 0.03, 0.12), (0.13, 0.10, 0.34))}


def landscape(bg):
    """The numbers that a landscape's seed stands for: (frequency, phase) of the two hills or the stars' places (x, y), none
    for the sea. With less spread, hills are nearly the same for every seed.
    """
    rng = np.random.default_rng(bg["seed"])
    chance = lambda usual, low, high: usual + bg["spread"] * (rng.uniform(low, high) - usual)
    if bg["kind"] == "over green hills":
        return [(chance(frequency, 5, 9), chance(phase, 0, 6.28)) for frequency, phase in HILL_CURVES]
    if bg["kind"] == "over the sea":
        return []
    return rng.uniform(0.02, 0.98, (STARS, 2)).tolist()


def waves(x, y, size, xp=np):
    """Coverage of the lighter water."""
    p = PERIOD / size
    return stripes(y + 0.2 * p * xp.sin(2 * math.pi / p * x), p, size, xp)


def second_of_background(a):
    """The other colour of a patterned background."""
    return a * 0.72 + 0.28 * (1.0 if a.mean() < 0.6 else 0.0)


def second_of_object(base):
    """The other colour of a patterned object: white, and for white a grey that is far from black, whose patterns are white too."""
    return np.float32((0.97, 0.97, 0.97) if base.mean() < 0.8 else (0.42, 0.42, 0.45))


def _background(bg, x, y, size):
    """The background at the points (x, y), which may be a column and a row that broadcast: [..., 3]."""
    kind = bg["kind"]
    if kind in LANDSCAPES:
        img, numbers = _gradient(*SKIES[kind], x, y), landscape(bg)
        if kind == "over green hills":
            for (level, amp, col), (f, p) in zip(HILLS, numbers):
                img = _mix(img, col, cover(level + amp * np.sin(f * x + p) - y, size))
        elif kind == "over the sea":
            s = waves(x, y, size)[..., None]
            sea = np.float32(WAVES[0]) * (1 - s) + np.float32(WAVES[1]) * s
            img = _mix(img, sea, cover(HORIZON - y + 0 * x, size))
        else:
            reach = 1 / 32 + 2 / size
            for sx, sy in numbers:
                at = _near(x, y, sx, sy, reach)
                px, py = _take(x, y, at)
                img[at] = _mix(img[at], STAR_COLOR, cover(np.hypot(px - sx, py - sy) - STAR_RADIUS, size))
        return img
    a = np.float32(BACKGROUNDS[bg["colors"][0]])
    if kind == "plain":
        return np.broadcast_to(a, (*np.broadcast_shapes(x.shape, y.shape), 3)).copy()
    if kind == "gradient":
        return _gradient(a, BACKGROUNDS[bg["colors"][1]], x, y)
    b = second_of_background(a)
    m = pattern(kind, x, y, size)[..., None]
    return a * (1 - m) + b * m


def _gradient(a, b, x, y):
    y = (y + 0 * x)[..., None]
    return np.float32(a) * (1 - y) + np.float32(b) * y


def _near(x, y, cx, cy, reach):
    """Index of the points within reach of (cx, cy) per axis: a window of a grid, a mask of loose points."""
    if x.ndim == 1:
        return (np.abs(x - cx) < reach) & (np.abs(y - cy) < reach)
    rows, columns = (np.flatnonzero(np.abs(t.ravel() - c) < reach) for t, c in ((y, cy), (x, cx)))
    window = lambda at: slice(at[0], at[-1] + 1) if len(at) else slice(0, 0)
    return window(rows), window(columns)


def _take(x, y, at):
    return (x[at], y[at]) if x.ndim == 1 else (x[:, at[1]], y[at[0]])


def paint_order(scene):
    """The objects from back to front."""
    return scene["objects"][::-1] if scene["relation"] == "inside" else scene["objects"]


def paint(scene, x, y, size):
    """The colours [..., 3] in [0, 1] of a picture of `size` pixels at the points (x, y) in picture sides.

    The points are two arrays [n], or a row [1, W] and a column [H, 1] that span a grid.
    """
    img = _background(scene["background"], x, y, size).astype(np.float32)
    for o in paint_order(scene):
        at = _near(x, y, o["x"], o["y"], o["r"] * 1.12 + 1.0 / size)
        px, py = _take(x, y, at)
        dx, dy, r = px - np.float32(o["x"]), py - np.float32(o["y"]), np.float32(o["r"])
        alpha = cover(sdf(o["shape"], dx / r, dy / r) * r, size).astype(np.float32)
        base = np.float32(COLORS[o["color"]])
        color = base * (1 - SHADE * np.clip(dy / r * 0.5 + 0.5, 0, 1)[..., None])
        if o["fill"]:
            m = pattern(o["fill"], px, py, size)[..., None].astype(np.float32)
            color = color * (1 - m) + second_of_object(base) * m
        img[at] = _mix(img[at], color, alpha)
    return np.clip(img, 0, 1)


def render(scene, size):
    """The picture as float32 [size, size, 3] in [0, 1]."""
    t = (np.arange(size, dtype=np.float32) + 0.5) / size
    return paint(scene, t[None, :], t[:, None], size)


def render_patches(scene, size, patches, side=8):
    """float32 [side, side * n, 3]: only the given patches of side x side pixels, next to each other.

    patches: indices [n], row by row. Each comes out as `render` would draw it, at a cost of n and not of size^2.
    """
    n, columns = len(patches), size // side
    inside = np.arange(side)
    row = (patches // columns * side)[None, :, None] + inside[:, None, None]
    column = (patches % columns * side)[None, :, None] + inside[None, None, :]
    at = lambda pixels: ((np.broadcast_to(pixels, (side, n, side)).reshape(-1) + 0.5) / size).astype(np.float32)
    return paint(scene, at(column), at(row), size).reshape(side, n * side, 3)


# ---------------------------------------------------------------------------------------------------- tokenizer


def vocabulary():
    words = set(" ".join(list(COLORS) + list(BACKGROUNDS) + list(SHAPES) + [plural(s) for s in SHAPES] + list(FILLS)
                         + [s for s in SIZES if s] + list(PLACES) + list(RELATIONS) + list(LANDSCAPES)
                         + list(NUMBERS.values())).split())
    words |= {"a", "an", "on", "to", "gradient", "background", "in", "row", "column", "and", ",", "the"}
    return list(SPECIAL) + sorted(words)


def tokenizer_json():
    """A Hugging Face `tokenizers` file: lower case, words and punctuation, <eos> at the end, padded to MAX_TOKENS."""
    vocab = {w: i for i, w in enumerate(vocabulary())}
    eos = vocab["<eos>"]
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": MAX_TOKENS, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": MAX_TOKENS}, "direction": "Right", "pad_to_multiple_of": None,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": [{"id": vocab[w], "content": w, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for w in SPECIAL],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"Sequence": {"id": "A", "type_id": 0}},
                                      {"SpecialToken": {"id": "<eos>", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                           "special_tokens": {"<eos>": {"id": "<eos>", "ids": [eos], "tokens": ["<eos>"]}}},
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }


_IDS = None


def encode(text):
    """Token ids of one caption, MAX_TOKENS long (the same ids as tokenizer.json gives)."""
    global _IDS
    if _IDS is None:
        _IDS = {w: i for i, w in enumerate(vocabulary())}
    words = re.findall(r"\w+|[^\w\s]+", text.lower())[: MAX_TOKENS - 1]
    ids = [_IDS.get(w, _IDS["<unk>"]) for w in words] + [_IDS["<eos>"]]
    return ids + [_IDS["<pad>"]] * (MAX_TOKENS - len(ids))


if __name__ == "__main__":
    import argparse

    from PIL import Image

    ap = argparse.ArgumentParser(description="Write a sheet of random scenes, or the tokenizer file.")
    ap.add_argument("--out", default="scenes.png")
    ap.add_argument("--size", type=int, default=128)
    ap.add_argument("--count", type=int, default=32)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tokenizer", help="write tokenizer.json here and stop")
    args = ap.parse_args()
    if args.tokenizer:
        with open(args.tokenizer, "w") as f:
            json.dump(tokenizer_json(), f, indent=1)
        raise SystemExit
    rng = np.random.default_rng(args.seed)
    tiles = []
    for i in range(args.count):
        s = random_scene(rng)
        print(i, caption(s))
        tiles.append(render(s, args.size))
    rows = [np.concatenate(tiles[i:i + 8], 1) for i in range(0, len(tiles), 8)]
    Image.fromarray((np.concatenate(rows, 0) * 255 + 0.5).astype(np.uint8)).save(args.out)
