"""What does a picture show? Its objects with place, size, shape, colour and fill, and its background.

    python -m judge.detector --part finder    train one of the networks of detector.safetensors further, on drawn scenes
    python -m judge.detector --part finder --fresh --pictures 100000        half an hour of a core; the other two are faster

Three small convolutional networks. The finder sees the picture at 64x64: for every size word a map of object centres,
so that an object inside a larger one is found beside it, their radii, and the background. The reader sees a window of
32x32 around every object that was found, and two pieces of its surface: shape, colour, fill. The ground sees pieces of the
background: its fill and colour. Pieces are not scaled, because patterns are as fine as the tokens at every size. All learn
from scenes that are blurred, noisy, of too much contrast, bent, and torn along the tokens' borders, since generated
pictures are never exact.
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from data import scene as S
from data.labels import BACKGROUNDS, COLORS, FILLS, KINDS, SHAPES, SIZES
from net.sampling import picture_tensor

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "detector.safetensors")
VIEW, GRID = 64, 16  # pixels that the finder sees, cells of its maps
TOKEN = 8  # pixels
WINDOW, REACH = 32, 1.4  # pixels that the reader sees, and the radii they reach from the centre
PIECE, LOWER = 24, 0.74  # pixels of a piece; the second one of an object is so many radii below the centre, for rings
PIECES = 8  # of a background
SURFACES = ("plain", *S.FILLS)  # kinds of background that the ground tells apart
THRESHOLD = 0.4  # of a centre's probability
MEAN_RADIUS = torch.tensor([sum(S.SIZES[s]) / 2 for s in SIZES])


def conv(a, b, stride=1, dilation=1):
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, dilation, dilation, bias=False), nn.BatchNorm2d(b), nn.ReLU())


class Finder(nn.Module):
    """Pictures [B, 3, 64, 64] in [-1, 1] -> maps [B, 16, 16, 2 * sizes + 2] and background logits."""

    def __init__(self, w=56):
        super().__init__()
        self.body = nn.Sequential(conv(3, 16), conv(16, 32, 2), conv(32, 32), conv(32, w, 2))
        self.wide = nn.ModuleList(conv(w, w, dilation=d) for d in (1, 2, 4, 1, 2))
        self.maps = nn.Conv2d(w, 2 * len(SIZES) + 2, 1)
        nn.init.constant_(self.maps.bias[:len(SIZES)], -4.0)  # few cells are centres
        self.background = nn.Sequential(nn.Linear(16 * w, 96), nn.ReLU(),
                                        nn.Linear(96, len(KINDS) + 2 * len(BACKGROUNDS)))

    def forward(self, x):
        h = self.body(x)
        for layer in self.wide:
            h = h + layer(h)
        return self.maps(h).permute(0, 2, 3, 1), self.background(F.adaptive_avg_pool2d(h, 4).flatten(1))


def texture():
    """Pieces [B, 3, 24, 24] -> [B, 64]."""
    return nn.Sequential(conv(3, 24), conv(24, 32, 2), conv(32, 48), conv(48, 48, 2), nn.Flatten(), nn.Linear(48 * 36, 64), nn.ReLU())


class Reader(nn.Module):
    """Windows [B, 3, 32, 32] and pieces [B, 2, 3, 24, 24], in [-1, 1] -> logits of shape, colour and fill."""

    PARTS = {"shape": SHAPES, "color": COLORS, "fill": FILLS}

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(3, 24), conv(24, 32, 2), conv(32, 48), conv(48, 64, 2), conv(64, 64),
                                  nn.Flatten(), nn.Linear(64 * 64, 96), nn.ReLU())
        self.texture = texture()
        self.out = nn.Linear(96 + 2 * 64, sum(map(len, self.PARTS.values())))

    def forward(self, windows, pieces):
        seen = self.texture(pieces.flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1)
        return self.out(torch.cat([self.body(windows), seen], 1)).split([len(p) for p in self.PARTS.values()], -1)


class Ground(nn.Module):
    """Pieces of a background [B, 3, 24, 24] in [-1, 1] -> logits of SURFACES and of its colour."""

    def __init__(self):
        super().__init__()
        self.texture = texture()
        self.out = nn.Linear(64, len(SURFACES) + len(BACKGROUNDS))

    def forward(self, pieces):
        return self.out(self.texture(pieces)).split([len(SURFACES), len(BACKGROUNDS)], -1)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.finder, self.reader, self.ground = Finder(), Reader(), Ground()

    @torch.no_grad()
    def forward(self, pictures):
        """[B, 3, H, W] in [-1, 1] -> for each its objects, the surest first, and its background, in scene.py's terms."""
        view = F.interpolate(pictures, size=VIEW, mode="area")
        result = []
        for picture, maps, logits in zip(pictures, *self.finder(view)):
            objects, background = self.read(picture, self.find(maps)), background_of(logits)
            if background["kind"] in SURFACES:
                background = self.surface(picture, objects)
            result.append((objects, background))
        return result

    def find(self, maps):
        heat, radius, offset = maps.split([len(SIZES), len(SIZES), 2], -1)
        heat = heat.sigmoid().permute(2, 0, 1)
        peaks = (heat > THRESHOLD) & (heat == F.max_pool2d(heat[None], 3, 1, 1)[0])
        objects = []
        for k, i, j in peaks.nonzero().tolist():
            x, y = (j + float(offset[i, j, 0])) / GRID, (i + float(offset[i, j, 1])) / GRID
            r = float(MEAN_RADIUS[k] * radius[i, j, k].clamp(-1, 1).exp())
            objects.append({"size": SIZES[k], "x": x, "y": y, "r": r, "score": float(heat[k, i, j])})
        kept = []
        for o in sorted(objects, key=lambda o: -o["score"]):  # between two size words, or two cells: once
            same = lambda p: np.hypot(o["x"] - p["x"], o["y"] - p["y"]) < 0.5 * min(o["r"], p["r"]) \
                and max(o["r"], p["r"]) < 1.7 * min(o["r"], p["r"])
            if not any(map(same, kept)):
                kept.append(o)
        return kept

    def surface(self, picture, objects):
        """The plain or patterned background: from the pieces that are farthest from the objects."""
        t = ((torch.arange(6) + 0.5) / 6).tolist()
        away = lambda at: min((np.hypot(at[0] - o["x"], at[1] - o["y"]) - o["r"] for o in objects), default=0)
        places = sorted(((x, y) for x in t for y in t), key=away)[-PIECES:]
        kind, color = self.ground(torch.stack([piece(picture, *at) for at in places]))
        surest = lambda logits: int(logits.log_softmax(-1).mean(0).argmax())
        return {"kind": SURFACES[surest(kind)], "colors": [BACKGROUNDS[surest(color)]]}

    def read(self, picture, objects):
        if not objects:
            return []
        windows = torch.cat([window(picture, o["x"], o["y"], o["r"]) for o in objects])
        pieces = torch.stack([pieces_of(picture, o["x"], o["y"], o["r"]) for o in objects])
        for name, logits in zip(Reader.PARTS, self.reader(windows, pieces)):
            for o, k in zip(objects, logits.argmax(-1).tolist()):
                o[name] = Reader.PARTS[name][k]
        return objects


def piece(picture, x, y):
    """[3, 24, 24] of a picture [3, H, W], around (x, y) in picture sides, or the nearest place where it is inside."""
    row, column = (min(max(round(c * n) - PIECE // 2, 0), n - PIECE) for c, n in zip((y, x), picture.shape[1:]))
    return picture[:, row:row + PIECE, column:column + PIECE]


def pieces_of(picture, x, y, r):
    """[2, 3, 24, 24] of an object."""
    return torch.stack([piece(picture, x, y), piece(picture, x, y + LOWER * r)])


def window(picture, x, y, r, bend=None):
    """[1, 3, 32, 32] of a picture [3, H, W]: REACH radii around (x, y), every pixel the mean of 2x2 samples.

    bend [64, 64, 2]: how far every sample is moved, in radii.
    """
    t = (torch.arange(2 * WINDOW) + 0.5) / WINDOW - 1
    gx, gy = torch.meshgrid(t, t, indexing="xy")
    grid = torch.stack([gx, gy], -1) * (REACH * r)
    if bend is not None:
        grid = grid + bend * r
    grid = (grid + torch.tensor([x, y], dtype=grid.dtype)) * 2 - 1
    out = F.grid_sample(picture[None], grid[None].float(), padding_mode="border", align_corners=False)
    return F.avg_pool2d(out, 2)


def background_of(logits):
    """Of a gradient or a landscape; of others only that they are a surface."""
    kind, first, last = (int(p.argmax()) for p in logits.split([len(KINDS), len(BACKGROUNDS), len(BACKGROUNDS)]))
    name, colors = KINDS[kind], [BACKGROUNDS[first], BACKGROUNDS[last]]
    return {"kind": name, "colors": colors if name == "gradient" else []}


# ----------------------------------------------------------------------------------------------------- training


def worse(x):
    """Pictures as a generator might draw them: some blurred, all with some noise, a wrong tint and a wrong contrast, which
    guidance makes too strong.
    """
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.4, blurred, x)
    x = x + torch.randn_like(x) * torch.rand(len(x), 1, 1, 1) ** 2 * 0.12 + torch.randn(len(x), 3, 1, 1) * 0.03
    return (x * (0.9 + 0.3 * torch.rand(len(x), 1, 1, 1))).clamp(-1, 1)


def torn(x):
    """Pictures [B, 3, H, W] whose tokens show what is beside their place, and in another tint."""
    n, rows, columns = len(x), x.shape[2] // TOKEN, x.shape[3] // TOKEN
    spread = (0.25 * (2 * torch.rand(n, 1, 1, 1) - 1)).clamp(min=0)  # in tokens, 0 for half of the pictures
    tiles = lambda t: t.repeat_interleave(TOKEN, -1).repeat_interleave(TOKEN, -2)
    moved = tiles(torch.randn(n, 2, rows, columns) * spread).permute(0, 2, 3, 1) * torch.tensor([2 / columns, 2 / rows])
    ty, tx = ((torch.arange(k) + 0.5) / k * 2 - 1 for k in x.shape[2:])
    grid = torch.stack(torch.meshgrid(tx, ty, indexing="xy"), -1) + moved
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False) + tiles(torch.randn(n, 3, rows, columns) * 0.3 * spread)


def finder_loss(net, scenes, rng):
    size = int(rng.choice([128, 256, 512], p=[0.6, 0.35, 0.05]))
    pictures = picture_tensor([S.render(s, size) for s in scenes])
    maps, background = net(worse(F.interpolate(torn(pictures), size=VIEW, mode="area")))
    heat = torch.zeros(len(scenes), GRID, GRID, len(SIZES))
    where, radius, offset = [], [], []
    t = torch.arange(GRID)
    for n, s in enumerate(scenes):
        for o in s["objects"]:
            k, i, j = SIZES.index(o["size"]), min(int(o["y"] * GRID), GRID - 1), min(int(o["x"] * GRID), GRID - 1)
            bump = torch.exp(-((t[:, None] - i) ** 2 + (t[None] - j) ** 2) / 1.5)
            heat[n, ..., k] = torch.maximum(heat[n, ..., k], bump)
            where.append((n, i, j, k))
            radius.append(np.log(o["r"] / float(MEAN_RADIUS[k])))
            offset.append((o["x"] * GRID - j, o["y"] * GRID - i))
    n, i, j, k = torch.tensor(where).unbind(1)
    logits = maps[..., :len(SIZES)]
    p = logits.sigmoid()
    hit, miss = (1 - p) ** 2 * F.logsigmoid(logits), (1 - heat) ** 4 * p ** 2 * F.logsigmoid(-logits)
    loss = -torch.where(heat == 1, hit, miss).sum() / len(where)  # focal loss of CenterNet (arXiv 1904.07850)
    loss = loss + 2 * F.l1_loss(maps[n, i, j, len(SIZES) + k], torch.tensor(radius).float())
    loss = loss + F.l1_loss(maps[n, i, j, -2:], torch.tensor(offset).float())
    kind, first, last = background.split([len(KINDS), len(BACKGROUNDS), len(BACKGROUNDS)], -1)
    # Which surface it is, and its colour, the ground tells.
    kinds = ["plain" if s["background"]["kind"] in SURFACES else s["background"]["kind"] for s in scenes]
    colors = [[BACKGROUNDS.index(c) for c in s["background"]["colors"]] if k == "gradient" else [-1] for k, s in zip(kinds, scenes)]
    loss = loss + 0.3 * F.cross_entropy(kind, torch.tensor([KINDS.index(k) for k in kinds]))
    for logits, at in ((first, 0), (last, -1)):
        asked = torch.tensor([c[at] for c in colors])
        if (asked >= 0).any():
            loss = loss + 0.3 * F.cross_entropy(logits, asked, ignore_index=-1)
    return loss


def some_size(rng):
    return int(rng.choice([128, 192, 256, 384, 512]))


def part_of(scene, size, x, y, reach):
    """([3, n, n] of the scene's picture, the corner's pixels) around (x, y) in picture sides, `reach` pixels in each direction."""
    pixels = -(-2 * reach // TOKEN) * TOKEN
    first = [(int(c * size) - pixels // 2) // TOKEN * TOKEN for c in (x, y)]
    t = [((np.arange(pixels) + f + 0.5) / size).astype(np.float32) for f in first]
    return torn(picture_tensor([S.paint(scene, t[0][None], t[1][:, None], size)]))[0], first


def reader_loss(net, scenes, rng):
    windows, pieces, truth = [], [], []
    for s in scenes:
        o = s["objects"][int(rng.integers(len(s["objects"])))]
        size = some_size(rng)
        x, y = (o[a] + o["r"] * rng.normal(0, 0.06) for a in "xy")
        r = o["r"] * np.exp(rng.normal(0, 0.08))
        part, first = part_of(s, size, x, y, int(1.6 * r * size) + PIECE)
        bend = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.07), (1, 2, 4, 4))).float()
        bend = F.interpolate(bend, size=2 * WINDOW, mode="bicubic")[0].permute(1, 2, 0)
        side = part.shape[-1] / size  # places and radii are in picture sides: here the part is the picture
        place = (x - first[0] / size) / side, (y - first[1] / size) / side, r / side
        windows.append(window(part, *place, bend))
        pieces.append(pieces_of(part, *place))
        truth.append([SHAPES.index(o["shape"]), COLORS.index(o["color"]), FILLS.index(o["fill"])])
    truth = torch.tensor(truth)
    logits = net(worse(torch.cat(windows)), worse(torch.cat(pieces)).unflatten(0, (-1, 2)))
    return sum(F.cross_entropy(out, truth[:, k]) for k, out in enumerate(logits))


def contrasted(x, color, rng):
    """A piece of a pattern whose contrast is up to four times as strong: guidance exaggerates that of backgrounds as well."""
    first = torch.tensor(S.BACKGROUNDS[color])[:, None, None] * 2 - 1
    base = torch.lerp(x.mean((1, 2), keepdim=True), first, float(rng.random()))
    return (base + 4 ** float(rng.uniform(-0.1, 1)) * (x - base)).clamp(-1, 1)


def ground_loss(net, scenes, rng):
    pieces, truth = [], []
    for s in scenes:
        bg = s["background"]
        if bg["kind"] in SURFACES:
            part, _ = part_of(s, some_size(rng), *rng.random(2), PIECE)
            cut = piece(part, *rng.uniform(0.3, 0.7, 2))  # anywhere in the pattern
            pieces.append(cut if bg["kind"] == "plain" or rng.random() < 0.3 else contrasted(cut, bg["colors"][0], rng))
            truth.append([SURFACES.index(bg["kind"]), BACKGROUNDS.index(bg["colors"][0])])
    truth = torch.tensor(truth)
    return sum(F.cross_entropy(out, truth[:, k]) for k, out in enumerate(net(worse(torch.stack(pieces)))))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--part", choices=("finder", "reader", "ground"), required=True)
    ap.add_argument("--file", default=FILE, help="only this part of it is changed")
    ap.add_argument("--fresh", action="store_true", help="start from random weights instead of those of the file")
    ap.add_argument("--pictures", type=int, default=40_000, help="pictures for the finder, objects for the reader, scenes for the "
                                                                  "ground")
    args = ap.parse_args()
    torch.manual_seed(1)
    rng, net = np.random.default_rng(77), Detector() if args.fresh else load(args.file).train()
    model, start, figures = getattr(net, args.part), time.time(), []
    batch, lr = 32 if args.part == "finder" else 64, 3e-3 if args.fresh else 2e-3
    loss_of = {"finder": finder_loss, "reader": reader_loss, "ground": ground_loss}[args.part]
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    for step in range(args.pictures // batch):
        for group in opt.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50, 1.01 - step * batch / args.pictures)
        scenes = [S.random_scene(rng, spread=1) for _ in range(batch)]
        loss = loss_of(model, scenes, rng)
        opt.zero_grad()
        loss.backward()
        opt.step()
        figures.append(loss.item())
        if step % 100 == 99:
            print(f"{args.part}: {(step + 1) * batch} scenes, {time.time() - start:.0f} s, "
                  f"loss {np.mean(figures[-100:]):.3f}", flush=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    # The others may have been trained meanwhile.
    other = load_file(args.file) if os.path.exists(args.file) else half
    save_file({k: (half if k.startswith(args.part + ".") else other)[k] for k in half}, args.file)


def load(path=FILE):
    net = Detector()
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return net.eval()


if __name__ == "__main__":
    main()
