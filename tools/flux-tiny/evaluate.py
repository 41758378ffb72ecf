"""Does a picture show what its caption says? A mini-GenEval for the scenes of scene.py.

    python evaluate.py --train --minutes 5          fit the detector on rendered scenes, write evaluator.safetensors
    python evaluate.py --truth --count 400          accuracy of the check on rendered scenes (its ceiling)
    python evaluate.py --captions captions.txt --count 400
                                                    write the captions to score, for another program to draw
    python evaluate.py --captions captions.txt --pictures folder
                                                    score 0000.png, 0001.png, ... against the captions' lines
    python evaluate.py --model ../../models/flux-tiny --count 400
                                                    draw with PyTorch and score
    python evaluate.py --image a.png --caption "a red circle on a grey background"

The detector is a small convolutional network that sees the picture at 64x64. On a 16x16 grid it finds object centres
with shape, colour, fill and size, and it names the background. A caption is parsed by the grammar of scene.py. A
picture passes when the number of objects is right, every object is found with its shape, colour and fill, and the
relation or place holds; `strict` also asks for the size word and the background. --json writes shares with 95 % Wilson
intervals.
"""
import argparse
import itertools
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import scene as S
from labels import BACKGROUNDS, COLORS, FILLS, KINDS, SHAPES, SIZES

GRID = 16
THRESHOLD = -2.0  # logit of an object's centre


class Detector(nn.Module):
    def __init__(self, w=48):
        super().__init__()
        conv = lambda a, b, s=1: nn.Sequential(nn.Conv2d(a, b, 3, stride=s, padding=1), nn.BatchNorm2d(b), nn.ReLU())
        self.body = nn.Sequential(conv(3, 24), conv(24, w, 2), conv(w, w), conv(w, 2 * w, 2), conv(2 * w, 2 * w),
                                  conv(2 * w, 2 * w), conv(2 * w, 2 * w))
        self.head = nn.Conv2d(2 * w, 3 + len(SHAPES) + len(COLORS) + len(FILLS) + len(SIZES), 1)
        self.background = nn.Linear(2 * w * 16, len(KINDS) + 2 * len(BACKGROUNDS))

    def forward(self, x):
        h = self.body(x)
        return self.head(h), self.background(F.adaptive_avg_pool2d(h, 4).flatten(1))


SPLITS = [3, len(SHAPES), len(COLORS), len(FILLS), len(SIZES)]


def targets(scene):
    """Grid of class indices (-1: no object) and the background's classes."""
    t = np.full((GRID, GRID, 6), -1.0, np.float32)
    for o in scene["objects"]:
        i, j = min(int(o["y"] * GRID), GRID - 1), min(int(o["x"] * GRID), GRID - 1)
        if t[i, j, 0] >= 0 and SIZES.index(o["size"]) != 0:
            continue  # two objects in one cell ("inside"): the small one wins there
        t[i, j] = (SHAPES.index(o["shape"]), COLORS.index(o["color"]), FILLS.index(o["fill"]),
                   SIZES.index(o["size"]), o["x"] * GRID - j, o["y"] * GRID - i)
    if scene["relation"] == "inside":  # the outer object is reported one cell to the right of the inner one
        a, b = scene["objects"]
        i, j = min(int(a["y"] * GRID), GRID - 1), min(int(a["x"] * GRID), GRID - 1)
        t[i, j + 1] = (SHAPES.index(b["shape"]), COLORS.index(b["color"]), FILLS.index(b["fill"]),
                       SIZES.index(b["size"]), b["x"] * GRID - j - 1, b["y"] * GRID - i)
        i2, j2 = min(int(b["y"] * GRID), GRID - 1), min(int(b["x"] * GRID), GRID - 1)
        if (i2, j2) not in ((i, j), (i, j + 1)):
            t[i2, j2] = -1
    bg = scene["background"]
    c = bg["colors"] or ["", ""]
    return t, [KINDS.index(bg["kind"]), BACKGROUNDS.index(c[0]) if c[0] else -1, BACKGROUNDS.index(c[-1]) if c[-1] else -1]


def train(args):
    torch.manual_seed(1)
    rng, net = np.random.default_rng(77 if not args.resume else 78), Detector()
    if args.resume:
        net = load(args.evaluator).train()
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    start, step, log = time.time(), 0, []
    while (frac := (time.time() - start) / 60 / args.minutes) < 1:
        for g in opt.param_groups:
            g["lr"] = 2e-3 * min(1, (step + 1) / 50) * max(0.02, 1 - frac)
        scenes = [S.random_scene(rng) for _ in range(48)]
        x = torch.from_numpy(np.stack([S.render(s, 64) for s in scenes])).permute(0, 3, 1, 2) * 2 - 1
        # generated pictures are never exact: blur some, add noise to some
        if step % 3 == 1:
            x = F.interpolate(F.avg_pool2d(x, 3, 1, 1), size=64)
        x = x + torch.randn_like(x) * (torch.rand(len(x), 1, 1, 1) ** 2 * 0.12) + torch.randn(len(x), 3, 1, 1) * 0.02
        ts, bs = zip(*(targets(s) for s in scenes))
        t, b = torch.from_numpy(np.stack(ts)), torch.tensor(bs)
        out, bg = net(x)
        out = out.permute(0, 2, 3, 1)
        pos = t[..., 0] >= 0
        loss = 20 * F.binary_cross_entropy_with_logits(out[..., 0], pos.float())
        parts = out[pos].split(SPLITS, dim=-1)
        loss = loss + F.l1_loss(parts[0][:, 1:], t[pos][:, 4:])
        for k in range(4):
            loss = loss + F.cross_entropy(parts[k + 1], t[pos][:, k].long())
        kind, first, last = bg.split([len(KINDS), len(BACKGROUNDS), len(BACKGROUNDS)], dim=-1)
        loss = loss + F.cross_entropy(kind, b[:, 0]) + F.cross_entropy(first, b[:, 1], ignore_index=-1) \
            + F.cross_entropy(last, b[:, 2], ignore_index=-1)
        opt.zero_grad()
        loss.backward()
        opt.step()
        step += 1
        log.append(loss.item())
        if step % 50 == 0:
            print(step, f"{time.time() - start:.0f} s, loss {np.mean(log[-50:]):.3f}", flush=True)
    save_file({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}, args.evaluator)


def load(path):
    net = Detector()
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return net.eval()


@torch.no_grad()
def detect(net, pictures):
    """[B, 3, H, W] in [-1, 1] -> per picture (objects, background)."""
    x = F.interpolate(pictures, size=64, mode="area") if pictures.shape[-1] != 64 else pictures
    out, bg = net(x)
    out = out.permute(0, 2, 3, 1)
    kind, first, last = bg.split([len(KINDS), len(BACKGROUNDS), len(BACKGROUNDS)], dim=-1)
    res = []
    for n in range(len(x)):
        objects = []
        for i, j in (out[n, ..., 0] > THRESHOLD).nonzero().tolist():
            p = out[n, i, j].split(SPLITS)
            o = {"shape": SHAPES[p[1].argmax()], "color": COLORS[p[2].argmax()], "fill": FILLS[p[3].argmax()],
                 "size": SIZES[p[4].argmax()], "x": (j + float(p[0][1])) / GRID, "y": (i + float(p[0][2])) / GRID,
                 "score": float(p[0][0])}
            objects.append(o)
        objects.sort(key=lambda o: -o["score"])
        kept = []
        for o in objects:  # one object reported from neighbouring cells counts once
            same = lambda q: q["color"] == o["color"] and np.hypot(q["x"] - o["x"], q["y"] - o["y"]) < 0.12
            if not any(same(q) for q in kept):
                kept.append(o)
        k = KINDS[kind[n].argmax()]
        cols = [] if k in S.LANDSCAPES else [BACKGROUNDS[first[n].argmax()], BACKGROUNDS[last[n].argmax()]]
        res.append((kept, {"kind": k, "colors": cols if k == "gradient" else cols[:1]}))
    return res


def parse(caption):
    """The scene a caption of the grammar describes, without coordinates."""
    words = caption.replace(",", " ").split()
    text = " ".join(words)
    bg = {"kind": "plain", "colors": []}
    place = ""
    for kind in S.LANDSCAPES:
        if text.endswith(kind):
            bg = {"kind": kind, "colors": []}
            text = text[: -len(kind)].strip()
    if text.endswith("background"):
        text, _, tail = text.partition(" on a")
        tail = tail.split()
        tail = tail[1:] if tail[0] == "n" else tail
        if "gradient" in tail:
            bg = {"kind": "gradient", "colors": [tail[0], tail[2]]}
        else:
            bg = {"kind": next((w for w in tail if w in S.FILLS), "plain"), "colors": [w for w in tail if w in BACKGROUNDS]}
    for p in sorted(S.PLACES, key=len, reverse=True):
        if text.endswith(p):
            place, text = p, text[: -len(p)].strip()
            break
    layout = "row" if text.endswith("in a row") else "column" if text.endswith("in a column") else ""
    relation = next((r for r in S.RELATIONS if f" {r} " in text), "") if not layout else ""
    objects, cur, number = [], {}, 1
    singular = {S.plural(s): s for s in S.SHAPES}
    for w in text.split():
        number = {v: k for k, v in S.NUMBERS.items()}.get(w, number)
        if w in SIZES:
            cur["size"] = w
        elif w in S.FILLS:
            cur["fill"] = w
        elif w in COLORS:
            cur["color"] = w
        elif w in SHAPES or w in singular:
            objects.append({"size": "", "fill": "", **cur, "shape": singular.get(w, w)})
            cur = {}
    return {"objects": objects * number, "background": bg, "relation": relation, "place": place, "layout": layout}


def check(want, found, background):
    """Which parts of the description hold: {count, color, shape, objects, fill, size, ...}."""
    res = dict.fromkeys(("count", "color", "shape", "objects", "fill", "size", "relation", "background", "pass", "strict"), False)
    objs = want["objects"]
    res["count"] = len(found) == len(objs)
    res["background"] = background["kind"] == want["background"]["kind"] and \
        background["colors"] == want["background"]["colors"]
    best = -1
    for perm in itertools.permutations(range(len(found)), len(objs)) if len(objs) <= len(found) <= 6 else ():
        got = [found[i] for i in perm]
        right = lambda key: all(g[key] == o[key] for g, o in zip(got, objs))
        r = {k: right(k) for k in ("color", "shape", "fill", "size")}
        r["objects"] = r["color"] and r["shape"]
        rel, a, b = True, got[0], got[-1]
        if want["relation"] in ("left of", "right of"):
            rel = (a["x"] < b["x"]) == (want["relation"] == "left of") and abs(a["x"] - b["x"]) > abs(a["y"] - b["y"])
        elif want["relation"] in ("above", "below"):
            rel = (a["y"] < b["y"]) == (want["relation"] == "above") and abs(a["y"] - b["y"]) > abs(a["x"] - b["x"])
        elif want["relation"] == "inside":
            rel = np.hypot(a["x"] - b["x"], a["y"] - b["y"]) < 0.08
        elif want["place"]:
            px, py = S.PLACES[want["place"]]
            rel = abs(a["x"] - px) < 0.115 and abs(a["y"] - py) < 0.115
        elif want["layout"]:
            k = "x" if want["layout"] == "row" else "y"
            rel = all(p[k] < q[k] - 0.1 for p, q in zip(got, got[1:]))
        r["relation"] = bool(rel)
        score = 4 * r["color"] + 3 * r["shape"] + 2 * r["relation"] + r["fill"] + 0.5 * r["size"]
        if score > best:
            best = score
            res.update(r)
    res["pass"] = all(res[k] for k in ("count", "objects", "fill", "relation"))
    res["strict"] = res["pass"] and res["size"] and res["background"]
    return res


def interval(successes, n):
    """95 % Wilson interval."""
    z, p = 1.96, successes / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def summary(results):
    """{part: {share, low, high}} and the count."""
    n, table = len(results), {}
    for k in results[0]:
        hits = sum(bool(r[k]) for r in results)
        low, high = interval(hits, n)
        table[k] = {"share": round(hits / n, 4), "low": round(low, 4), "high": round(high, 4)}
    return {"pictures": n, "parts": table}


def line(results):
    return ", ".join(f"{k} {np.mean([r[k] for r in results]):.3f}" for k in results[0])


def score(net, pictures, captions):
    return [check(parse(c), *d) for c, d in zip(captions, detect(net, pictures))]


def scenes_of(seed, count):
    """Scenes with captions that are never trained on."""
    rng = np.random.default_rng(seed)
    return [S.evaluation_scene(rng) for _ in range(count)]


def read_picture(path):
    from PIL import Image
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 127.5 - 1).permute(2, 0, 1)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.abspath(__file__))
    ap.add_argument("--evaluator", default=os.path.join(here, "evaluator.safetensors"))
    ap.add_argument("--train", action="store_true")
    ap.add_argument("--resume", action="store_true", help="go on from evaluator.safetensors")
    ap.add_argument("--minutes", type=float, default=5)
    ap.add_argument("--truth", action="store_true")
    ap.add_argument("--model", help="folder of the model to score")
    ap.add_argument("--size", type=int, default=128)
    ap.add_argument("--steps", type=int, default=50)
    ap.add_argument("--guidance", type=float, default=3.5)
    ap.add_argument("--cfg", type=float, help="true classifier-free guidance at this scale")
    ap.add_argument("--count", type=int, default=400)
    ap.add_argument("--seed", type=int, default=1234)
    ap.add_argument("--captions", help="file of captions, one a line; written from --seed and --count without --pictures")
    ap.add_argument("--pictures", help="folder of pictures to score against --captions")
    ap.add_argument("--json", help="write the shares to this file")
    ap.add_argument("--image")
    ap.add_argument("--caption")
    args = ap.parse_args()
    if args.train:
        train(args)
    if args.captions and not args.pictures:
        with open(args.captions, "w") as f:
            f.writelines(S.caption(s) + "\n" for s in scenes_of(args.seed, args.count))
        return
    net = load(args.evaluator)
    if args.image:
        found, bg = detect(net, read_picture(args.image)[None])[0]
        print(json.dumps({"found": found, "background": bg, "check": check(parse(args.caption), found, bg)}, indent=1))
        return
    results = []
    if args.pictures:
        with open(args.captions) as f:
            captions = f.read().splitlines()
        for i, caption in enumerate(captions):
            path = os.path.join(args.pictures, f"{i:04d}.png")
            if os.path.exists(path):  # a folder that is still being filled can be scored
                results += score(net, read_picture(path)[None], [caption])
        print(f"{args.pictures} ({len(results)}):", line(results))
    if args.truth or args.train:
        scenes = scenes_of(args.seed, args.count)
        for i in range(0, args.count, 50):
            part = scenes[i:i + 50]
            x = torch.from_numpy(np.stack([S.render(s, args.size) for s in part])).permute(0, 3, 1, 2) * 2 - 1
            results += score(net, x, [S.caption(s) for s in part])
        print(f"rendered scenes ({args.count}, {args.size} px):", line(results))
    if args.model:
        from sample import FluxTiny
        model = FluxTiny(args.model)
        captions, start = [S.caption(s) for s in scenes_of(args.seed, args.count)], time.time()
        for i in range(0, args.count, 20):
            c = captions[i:i + 20]
            results += score(net, model(c, args.size, args.steps, guidance=args.guidance, cfg=args.cfg, seed=args.seed + i), c)
            print(len(results), f"{time.time() - start:.0f} s", line(results), flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(summary(results), f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
