"""What does a picture show? Its objects with place, size, shape, colour and fill, and its background.

    python detector.py                  train on rendered scenes, write detector.safetensors; half an hour of a core

Two small convolutional networks. The finder sees the picture at 64x64: for every size word a map of object centres,
so that an object inside a larger one is found beside it, their radii, and the background. The reader sees a window of
32x32 around every object that was found: shape, colour, fill. They learn from blurred and noisy scenes, the reader
also from bent ones, since generated pictures are never exact.
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import scene as S
from labels import BACKGROUNDS, COLORS, FILLS, KINDS, SHAPES, SIZES
from sampling import picture_tensor

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "detector.safetensors")
VIEW, GRID = 64, 16  # pixels that the finder sees, cells of its maps
WINDOW, REACH = 32, 1.4  # pixels that the reader sees, and the radii they reach from the centre
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


class Reader(nn.Module):
    """Windows [B, 3, 32, 32] in [-1, 1] -> logits of shape, colour and fill."""

    PARTS = {"shape": SHAPES, "color": COLORS, "fill": FILLS}

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(3, 24), conv(24, 32, 2), conv(32, 48), conv(48, 64, 2), conv(64, 64),
                                  nn.Flatten(), nn.Linear(64 * 64, 96), nn.ReLU())
        self.out = nn.Linear(96, sum(map(len, self.PARTS.values())))

    def forward(self, x):
        return self.out(self.body(x)).split([len(p) for p in self.PARTS.values()], -1)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.finder, self.reader = Finder(), Reader()

    @torch.no_grad()
    def forward(self, pictures):
        """[B, 3, H, W] in [-1, 1] -> for each its objects, the surest first, and its background, in scene.py's terms."""
        view = F.interpolate(pictures, size=VIEW, mode="area")
        maps, background = self.finder(view)
        return [(self.read(picture, self.find(m)), background_of(b)) for picture, m, b in zip(pictures, maps, background)]

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

    def read(self, picture, objects):
        if not objects:
            return []
        windows = torch.cat([window(picture, o["x"], o["y"], o["r"]) for o in objects])
        for name, logits in zip(Reader.PARTS, self.reader(windows)):
            for o, k in zip(objects, logits.argmax(-1).tolist()):
                o[name] = Reader.PARTS[name][k]
        return objects


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
    kind, first, last = (int(p.argmax()) for p in logits.split([len(KINDS), len(BACKGROUNDS), len(BACKGROUNDS)]))
    name, colors = KINDS[kind], [BACKGROUNDS[first], BACKGROUNDS[last]]
    return {"kind": name, "colors": [] if name in S.LANDSCAPES else colors if name == "gradient" else colors[:1]}


# ----------------------------------------------------------------------------------------------------- training


def worse(x):
    """Pictures as a generator might draw them: some blurred, all with some noise and a wrong tint."""
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.4, blurred, x)
    return x + torch.randn_like(x) * torch.rand(len(x), 1, 1, 1) ** 2 * 0.12 + torch.randn(len(x), 3, 1, 1) * 0.03


def finder_loss(net, scenes):
    maps, background = net(worse(picture_tensor([S.render(s, VIEW) for s in scenes])))
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
    colors = [[BACKGROUNDS.index(c) for c in s["background"]["colors"]] or [-1] for s in scenes]
    loss = loss + 0.3 * F.cross_entropy(kind, torch.tensor([KINDS.index(s["background"]["kind"]) for s in scenes]))
    for logits, at in ((first, 0), (last, -1)):
        loss = loss + 0.3 * F.cross_entropy(logits, torch.tensor([c[at] for c in colors]), ignore_index=-1)
    return loss


def reader_loss(net, scenes, rng):
    windows, truth = [], []
    for s in scenes:
        o = s["objects"][int(rng.integers(len(s["objects"])))]
        size = int(rng.choice([96, 128, 192, 256, 384]))
        x, y = (o[a] + o["r"] * rng.normal(0, 0.06) for a in "xy")
        r = o["r"] * np.exp(rng.normal(0, 0.08))
        first = [int((c - 1.6 * r) * size) for c in (x, y)]
        pixels = int(3.2 * r * size) + 2
        t = [((np.arange(pixels) + f + 0.5) / size).astype(np.float32) for f in first]
        part = picture_tensor([S.paint(s, t[0][None], t[1][:, None], size)])[0]
        bend = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.07), (1, 2, 4, 4))).float()
        bend = F.interpolate(bend, size=2 * WINDOW, mode="bicubic")[0].permute(1, 2, 0)
        side = pixels / size  # window() measures in picture sides: here the part is the picture
        windows.append(window(part, (x - first[0] / size) / side, (y - first[1] / size) / side, r / side, bend))
        truth.append([SHAPES.index(o["shape"]), COLORS.index(o["color"]), FILLS.index(o["fill"])])
    truth = torch.tensor(truth)
    return sum(F.cross_entropy(out, truth[:, k]) for k, out in enumerate(net(worse(torch.cat(windows)))))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default=FILE)
    ap.add_argument("--finder", type=int, default=36_000, help="pictures for the finder")
    ap.add_argument("--reader", type=int, default=36_000, help="windows for the reader")
    args = ap.parse_args()
    torch.manual_seed(1)
    rng, net = np.random.default_rng(77), Detector()
    for part, count, batch, lr in (("reader", args.reader, 64, 3e-3), ("finder", args.finder, 32, 3e-3)):
        model, start, figures = getattr(net, part), time.time(), []
        opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
        for step in range(count // batch):
            for group in opt.param_groups:
                group["lr"] = lr * min(1, (step + 1) / 50, 1.01 - step * batch / count)
            scenes = [S.random_scene(rng, spread=1) for _ in range(batch)]
            loss = finder_loss(model, scenes) if part == "finder" else reader_loss(model, scenes, rng)
            opt.zero_grad()
            loss.backward()
            opt.step()
            figures.append(loss.item())
            if step % 100 == 99:
                print(f"{part}: {(step + 1) * batch} scenes, {time.time() - start:.0f} s, "
                      f"loss {np.mean(figures[-100:]):.3f}", flush=True)
        save_file({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}, args.out)


def load(path=FILE):
    net = Detector()
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return net.eval()


if __name__ == "__main__":
    main()
