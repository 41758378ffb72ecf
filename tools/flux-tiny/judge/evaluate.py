"""Does a picture show what its caption says? A mini-GenEval for the scenes of scene.py.

    python -m judge.evaluate --truth --count 400          accuracy of the check on rendered scenes (its ceiling)
    python -m judge.evaluate --captions captions.txt --count 400
                                                    write the captions to score, for another program to draw
    python -m judge.evaluate --captions captions.txt --pictures folder
                                                    score 0000.png, 0001.png, ... against the captions' lines
    python -m judge.evaluate --captions captions.txt --pictures folder --verdicts verdicts/256-dense.jsonl
                                                    keep the verdicts too: days of drawing need not be done at one go
    python -m judge.evaluate --table verdicts/*.jsonl       shares of kept verdicts, and their differences from the first file's
    python -m judge.evaluate --model ../../models/flux-tiny --count 400
                                                    draw with PyTorch and score
    python -m judge.evaluate --image a.png --caption "a red circle on a grey background"

All captions are held out: neither the transformer nor the text encoder is trained on them. detector.py says what a
picture shows; a caption is parsed by the grammar of scene.py. A picture passes when the number of objects is right,
every object is found with its shape, colour and fill, and the relation or place holds; `strict` also asks for the size
word and the background. Intervals are of 95 %: Wilson's for a share; for a difference over the same captions the
one of paired proportions.
"""
import argparse
import copy
import hashlib
import itertools
import json
import math
import os
import time

import numpy as np
import torch

from judge import detector
from data import scene as S
from data.labels import BACKGROUNDS, COLORS, FILLS, SHAPES, SIZES
from net.sampling import picture_tensor

SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "models", "flux-tiny", "transformer.pt")
PARTS = ("count", "color", "shape", "objects", "fill", "size", "relation", "background", "pass", "strict")


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
    res = dict.fromkeys(PARTS, False)
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


def altered(want, rng):
    """What another caption would ask for: one shape, colour, fill, relation or place changed, or an object more or less."""
    want = copy.deepcopy(want)
    other = lambda values, value: values[int(rng.choice([i for i, v in enumerate(values) if v != value]))]
    opposite = {"left of": "right of", "above": "below"}
    opposite.update({v: k for k, v in opposite.items()})
    o = want["objects"][int(rng.integers(len(want["objects"])))]
    kinds = ["shape", "color", "fill", "count"] + ["relation"] * (want["relation"] in opposite) + ["place"] * bool(want["place"])
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "count":
        want["objects"] = want["objects"][:-1] if len(want["objects"]) > 1 else want["objects"] * 2
    elif kind == "relation":
        want["relation"] = opposite[want["relation"]]
    elif kind == "place":
        want["place"] = other(list(S.PLACES), want["place"])
    else:
        o[kind] = other({"shape": SHAPES, "color": COLORS, "fill": FILLS}[kind], o[kind])
    return want


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


def score(net, pictures, captions, rng=None):
    """With rng, against altered captions, of which none should pass."""
    wants = map(parse, captions)
    return [check(altered(want, rng) if rng else want, *d) for want, d in zip(wants, net(pictures))]


class Verdicts:
    """A file of results by picture: a line that says which weights, detector and captions they are of, then a line for
    each picture with the parts that are wrong.
    """

    def __init__(self, path, of=None):
        self.path, self.results = path, {}
        if os.path.exists(path):
            with open(path) as f:
                was, *lines = map(json.loads, f)
            if of is not None and of != was:
                raise ValueError(f"{path} is of {was}, not of {of}")
            self.results = {line["picture"]: {k: k not in line["wrong"] for k in PARTS} for line in lines}
        elif of is None:
            raise FileNotFoundError(path)
        else:
            with open(path, "w") as f:
                f.write(json.dumps(of) + "\n")

    def add(self, picture, result):
        self.results[picture] = result
        with open(self.path, "a") as f:
            f.write(json.dumps({"picture": picture, "wrong": [k for k in PARTS if not result[k]]}) + "\n")


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()[:16]


def difference(results, reference, part="pass"):
    """(pictures of both, difference of the shares, half its 95 % interval) over the pictures of both."""
    both = results.keys() & reference.keys()
    n = len(both)
    gained = sum(results[i][part] and not reference[i][part] for i in both) / n
    lost = sum(reference[i][part] and not results[i][part] for i in both) / n
    return n, gained - lost, 1.96 * math.sqrt((gained + lost - (gained - lost) ** 2) / n)


def table(paths):
    """Lines of the model card's table."""
    columns = [k for k in PARTS if k != "objects"]
    print("| | pictures | " + " | ".join(columns) + " | pass, difference |\n" + "|---" * (len(columns) + 3) + "|")
    reference = None
    for path in paths:
        results = Verdicts(path).results
        reference = reference or results
        parts = summary(list(results.values()))["parts"]
        shares = [f'{parts[k]["share"]:.3f} ({parts[k]["low"]:.2f}-{parts[k]["high"]:.2f})' for k in columns]
        n, change, half = difference(results, reference)
        name = os.path.splitext(os.path.basename(path))[0]
        print(f"| {name} | {len(results)} | " + " | ".join(shares) + f" | {100 * change:+.1f} ± {100 * half:.1f} (of {n}) |")


def scenes_of(seed, count):
    """Scenes with captions that are never trained on."""
    rng = np.random.default_rng(seed)
    return [S.split_scene(rng, evaluation=True) for _ in range(count)]


def read_picture(path):
    from PIL import Image
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 127.5 - 1).permute(2, 0, 1)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--detector", default=detector.FILE)
    ap.add_argument("--truth", action="store_true")
    ap.add_argument("--model", help="folder of the model to score")
    ap.add_argument("--device", default="cpu", help="of the model; on a GPU in bfloat16")
    ap.add_argument("--size", type=int, default=128)
    ap.add_argument("--steps", type=int, default=50)
    ap.add_argument("--guidance", type=float, default=3.5)
    ap.add_argument("--cfg", type=float, help="true classifier-free guidance at this scale")
    ap.add_argument("--count", type=int, default=400)
    ap.add_argument("--seed", type=int, default=1234)
    ap.add_argument("--captions", help="file of captions, one a line; written from --seed and --count without --pictures")
    ap.add_argument("--pictures", help="folder of pictures to score against --captions")
    ap.add_argument("--altered", action="store_true", help="score against captions in which one thing was changed: what passes "
                                                           "should not")
    ap.add_argument("--verdicts", help="file of verdicts on --pictures, which is added to")
    ap.add_argument("--weights", default=SHIPPED, help="transformer that drew --pictures, for --verdicts")
    ap.add_argument("--table", nargs="+", help="files of verdicts")
    ap.add_argument("--json", help="write the shares to this file")
    ap.add_argument("--image")
    ap.add_argument("--caption")
    args = ap.parse_args()
    if args.captions and not args.pictures:
        with open(args.captions, "w") as f:
            f.writelines(S.caption(s) + "\n" for s in scenes_of(args.seed, args.count))
        return
    if args.table:
        table(args.table)
        return
    net = detector.load(args.detector)
    if args.image:
        found, bg = net(read_picture(args.image)[None])[0]
        print(json.dumps({"found": found, "background": bg, "check": check(parse(args.caption), found, bg)}, indent=1))
        return
    if args.altered and args.verdicts:
        ap.error("--altered: its verdicts are none to keep")
    results, rng = [], np.random.default_rng(args.seed) if args.altered else None
    if args.pictures:
        with open(args.captions) as f:
            captions = f.read().splitlines()
        of = {"weights": digest(args.weights), "detector": digest(args.detector), "captions": digest(args.captions)}
        kept = Verdicts(args.verdicts, of) if args.verdicts else None
        for i, caption in enumerate(captions):
            path = os.path.join(args.pictures, f"{i:04d}.png")
            if os.path.exists(path) and not (kept and i in kept.results):  # a folder that is still being filled can be scored
                results += score(net, read_picture(path)[None], [caption], rng)
                if kept:
                    kept.add(i, results[-1])
        if kept:
            results = list(kept.results.values())
        print(f"{args.pictures} ({len(results)}):", line(results))
    if args.truth:
        scenes = scenes_of(args.seed, args.count)
        for i in range(0, args.count, 50):
            part = scenes[i:i + 50]
            x = picture_tensor([S.render(s, args.size) for s in part])
            results += score(net, x, [S.caption(s) for s in part], rng)
        print(f"rendered scenes ({args.count}, {args.size} px):", line(results))
    if args.model:
        from sample import FluxTiny
        model = FluxTiny(args.model, args.device, bf16=args.device != "cpu")
        captions, start = [S.caption(s) for s in scenes_of(args.seed, args.count)], time.time()
        for i in range(0, args.count, 20):
            c = captions[i:i + 20]
            pictures = model(c, args.size, args.steps, guidance=args.guidance, cfg=args.cfg, seed=args.seed + i).cpu()
            results += score(net, pictures, c)
            print(len(results), f"{time.time() - start:.0f} s", line(results), flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(summary(results), f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
