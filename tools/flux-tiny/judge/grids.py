"""Sample sheets with their captions: 50 Euler steps, embedded guidance, seeds fixed, nothing picked by hand.

    python -m judge.grids --out samples
"""
import argparse
import os
import time

import numpy as np

from data import scene as S
from net.config import PROMPTS
from net.sample import MODEL, FluxTiny
from net.sampling import sheet

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--model", default=MODEL)
ap.add_argument("--guidance", type=float, default=3.5)
ap.add_argument("--steps", type=int, default=50)
ap.add_argument("--out", default="samples")
args = ap.parse_args()
model = FluxTiny(args.model)
rng = np.random.default_rng(2024)
random_captions = [S.caption(S.random_scene(rng)) for _ in range(24)]
os.makedirs(args.out, exist_ok=True)
with open(os.path.join(args.out, "captions.txt"), "w") as f:
    for name, captions, size in (("prompts-128", PROMPTS, 128), ("random-128", random_captions, 128),
                                 ("prompts-256", PROMPTS, 256), ("random-256", random_captions[:8], 256)):
        start = time.time()
        columns = 8 if len(captions) > 12 else 4
        pictures = model(captions, size, args.steps, args.guidance, seed=7)
        sheet(pictures, columns).save(os.path.join(args.out, name + ".png"), optimize=True)
        f.write(f"{name}.png: {size} px, {args.steps} steps, guidance {args.guidance}, {columns} columns, "
                "left to right, top to bottom\n")
        f.writelines(f"  {i + 1:2d}. {c}\n" for i, c in enumerate(captions))
        print(name, f"{time.time() - start:.0f} s", flush=True)
