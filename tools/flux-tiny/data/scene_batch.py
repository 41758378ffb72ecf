"""Many scenes at once: a scene as a row of numbers, and batches of rows drawn and labelled by tensor operations.

scene.py and labels.py draw and label one scene at a time with numpy, and only near its objects, which suits CPUs. This
does the same for every point of every scene, which suits GPUs; what a shape or a pattern is stands in scene.py alone.

    python -m data.scene_batch         the largest difference between the two, on random scenes
"""
import numpy as np
import torch

from data import labels as L
from data import scene as S

MAX_OBJECTS = 4
# Columns of an object: shape (-1: no object), colour, fill, size as in labels.py; x, y, r; both of its colours.
OBJECT = 7 + 6
# Columns of a background: kind as in labels.py; both of its colours (equal for a plain one); a landscape's numbers.
BACKGROUND = 1 + 6 + 2 * S.STARS
# Behind them a row has the caption's token ids.


def row(scene):
    """float32 [columns]: all of a scene, the objects in the order in which they are painted."""
    objects = np.full((MAX_OBJECTS, OBJECT), -1, np.float32)
    for k, o in enumerate(S.paint_order(scene)):
        base = np.float32(S.COLORS[o["color"]])
        objects[k] = (L.SHAPES.index(o["shape"]), L.COLORS.index(o["color"]), L.FILLS.index(o["fill"]),
                      L.SIZES.index(o["size"]), o["x"], o["y"], o["r"], *base, *S.second_of_object(base))
    bg, numbers = scene["background"], np.zeros(2 * S.STARS, np.float32)
    if bg["kind"] in S.LANDSCAPES:
        colors = S.SKIES[bg["kind"]]
        flat = np.ravel(S.landscape(bg))
        numbers[: len(flat)] = flat
    else:
        first = np.float32(S.BACKGROUNDS[bg["colors"][0]])
        second = (first if bg["kind"] == "plain" else S.BACKGROUNDS[bg["colors"][1]] if bg["kind"] == "gradient"
                  else S.second_of_background(first))
        colors = first, second
    background = np.concatenate([[L.KINDS.index(bg["kind"])], *colors, numbers])
    return np.concatenate([objects.ravel(), background, S.encode(S.caption(scene))]).astype(np.float32)


def token_ids(rows):
    return rows[:, -S.MAX_TOKENS:].long()


def _objects(rows, dims):
    """The columns of OBJECT, each [B, MAX_OBJECTS, 1, ...] with `dims` axes behind: in the order of painting."""
    table = rows[:, : MAX_OBJECTS * OBJECT].unflatten(1, (MAX_OBJECTS, OBJECT))
    return [c.view(len(rows), MAX_OBJECTS, *[1] * dims) for c in table.unbind(2)]


def _choose(index, values):
    """values[i] where index is i, values[0] elsewhere."""
    chosen = values[0]
    for i, v in enumerate(values[1:]):
        chosen = torch.where(index == i + 1, v, chosen)
    return chosen


def _sdf(shape, x, y):
    return _choose(shape, [S.sdf(s, x, y, torch) for s in L.SHAPES])


def palette(device):
    """The colours that are no scene's own, for `paint`: float32 [n, 3, 1]. A CUDA graph cannot make them."""
    rgb = [*(color for *_, color in S.HILLS), *S.WAVES, S.STAR_COLOR]
    return torch.tensor(rgb, device=device)[..., None]


def paint(rows, x, y, size, palette):
    """float32 [B, 3, P] in [0, 1]: what `scene.paint` gives, at the points (x, y) [P] in picture sides, for every row.

    All objects, all stars and all kinds are worked out together for all scenes: many numbers for nothing, but few operations.
    """
    start = MAX_OBJECTS * OBJECT
    background = rows[:, start:start + BACKGROUND, None]
    kind, first, second, numbers = background[:, 0], background[:, 1:4], background[:, 4:7], background[:, 7:]
    is_kind = lambda name: (kind == L.KINDS.index(name)).float()
    x, y = x[None], y[None]
    share = y  # of the second colour
    for f in S.FILLS:
        share = torch.where(kind == L.KINDS.index(f), S.pattern(f, x, y, size, torch), share)
    img = first + (second - first) * share[:, None]
    *hills, dark, light, star = palette
    over = lambda new, alpha: img + (new - img) * alpha[:, None]
    for i, (level, amplitude, _) in enumerate(S.HILLS):
        top = level + amplitude * torch.sin(numbers[:, 2 * i] * x + numbers[:, 2 * i + 1])
        img = over(hills[i], S.cover(top - y, size, torch) * is_kind("over green hills"))
    wave = S.waves(x, y, size, torch)[:, None]
    img = over(dark + (light - dark) * wave, S.cover(S.HORIZON - y, size, torch) * is_kind("over the sea"))
    distance = torch.hypot(x[None] - numbers[:, 0::2], y[None] - numbers[:, 1::2])
    stars = 1 - (1 - S.cover(distance - S.STAR_RADIUS, size, torch)).prod(1)
    img = over(star, stars * is_kind("in the night sky"))

    shape, _color, fill, _size, ox, oy, r, *colors = _objects(rows, 1)
    dx, dy = x - ox, y - oy
    alpha = S.cover(_sdf(shape, dx / r, dy / r) * r, size, torch) * (shape >= 0)
    shade = 1 - S.SHADE * torch.clip(dy / r * 0.5 + 0.5, 0, 1)
    share = _choose(fill - 1, [S.pattern(f, x, y, size, torch) for f in S.FILLS]) * (fill > 0)
    base, other = (torch.stack(c, 2) for c in (colors[:3], colors[3:]))
    base = base * shade[:, :, None]
    new = base + (other - base) * share[:, :, None]
    for k in range(MAX_OBJECTS):
        img = over(new[:, k], alpha[:, k])
    return img.clip(0, 1)


def pixels(tokens, size, side=8):
    """x and y [N * side * side] of the pixels of the given tokens (indices, row by row): token by token, row by row."""
    inside = torch.arange(side, device=tokens.device)
    columns = size // side
    at = lambda token, pixel: ((token[:, None, None] * side + pixel + 0.5) / size).expand(-1, side, side).reshape(-1)
    return at(tokens % columns, inside[None, None, :]), at(tokens // columns, inside[None, :, None])


def patches(points, side=8):
    """[B, 3, P] at the points of `pixels` -> [B, 3, side, side * N]: the patches of the tokens next to each other."""
    b, c, _ = points.shape
    return points.view(b, c, -1, side, side).permute(0, 1, 3, 2, 4).reshape(b, c, side, -1)


def token_labels(rows, side, tokens):
    """`labels.all_token_labels` of every row: float32 [B, N, ...], at the given tokens of side x side."""
    x, y = L.centres(side, tokens)
    shape, color, fill, size, ox, oy, r, *_ = _objects(rows, 1)
    dx, dy = (x - ox) / r, (y - oy) / r
    distance = _sdf(shape, dx, dy)
    near = torch.maximum(dx.abs(), dy.abs()) < L.REACH
    new = torch.stack(torch.broadcast_tensors(1 + shape, (distance < 0).float(), color, fill, size, dx, dy, distance.clip(-1, 1)), -1)
    nothing = torch.zeros_like(distance[:, 0])
    out = torch.stack([nothing, nothing, *[nothing - 1] * 3, *[nothing] * 3], -1)
    nearest = nothing + torch.inf
    for k in range(MAX_OBJECTS):
        away = distance[:, k] * r[:, k]
        mine = (shape[:, k] >= 0) & ((distance[:, k] < 0) | (near[:, k] & (away < nearest) & (out[..., 1] == 0)))
        nearest = torch.where(mine, away, nearest)
        out = torch.where(mine[..., None], new[:, k], out)
    inside = ((torch.arange(L.SUB, device=x.device) + 0.5) / L.SUB - 0.5) / side
    shape, _color, _fill, _size, ox, oy, r, *_ = _objects(rows, 3)
    px, py = x[:, None, None] + inside[None, :], y[:, None, None] + inside[:, None]
    covered = (_sdf(shape, (px - ox) / r, (py - oy) / r) < 0) & (shape >= 0)
    return torch.cat([out, covered.any(1).flatten(2).float()], -1)


def largest_difference(count=100, size=256, kept=256):
    """(of a pixel, of a label) between this and scene.py, at random tokens of random scenes."""
    rng = np.random.default_rng(0)
    scenes = [S.random_scene(rng) for _ in range(count)]
    side = size // 8
    tokens = np.sort(rng.choice(side * side, kept, replace=False))
    rows, at = torch.from_numpy(np.stack([row(s) for s in scenes])), torch.from_numpy(tokens)
    drawn = patches(paint(rows, *pixels(at, size), size, palette("cpu")))
    labels = token_labels(rows, side, at)
    wanted = torch.from_numpy(np.stack([S.render_patches(s, size, tokens) for s in scenes])).permute(0, 3, 1, 2)
    told = np.stack([L.all_token_labels(s, side, tokens) for s in scenes])
    return (drawn - wanted).abs().max().item(), (labels - torch.from_numpy(told)).abs().max().item()


if __name__ == "__main__":
    print("largest difference of a pixel %.1e, of a label %.1e" % largest_difference())
