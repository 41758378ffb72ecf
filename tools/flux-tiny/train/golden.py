"""Golden data of the shipped weights for test/golden/flux-tiny.test.ts: eager PyTorch from prompt to pixels.

    python -m train.golden                       after every export.py

Dense Euler steps over given sigmas, from the seed's noise; text encoder outputs, velocity of the first step, final latents,
picture.
"""
import argparse
import json
import os

import torch
from safetensors.torch import save_file

from data import scene as S
from net.config import PROMPTS
from net.model import image_ids, pack, unpack
from net.sample import MODEL, FluxTiny

OUT = os.path.join(MODEL, "..", "..", "test", "fixtures", "flux-tiny")
SIDE, STEPS, SEED, GUIDANCE = 12, 8, 5, 3.5
SHIFT = 2.0


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default=MODEL)
    ap.add_argument("--out", default=OUT)
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    model = FluxTiny(args.model)
    prompt = PROMPTS[4]
    u = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    sigmas = SHIFT * u / (1 + (SHIFT - 1) * u)
    noise = torch.randn(1, 16, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(SEED))
    pooled, sequence = model.text_encoder(torch.tensor([S.encode(prompt)]))
    x, ids, txt_ids = pack(noise), image_ids(SIDE, SIDE), torch.zeros(S.MAX_TOKENS, 3)
    tensors = {"pooled": pooled, "sequence": sequence, "latents": x.clone()}
    for a, b in zip(sigmas[:-1].tolist(), sigmas[1:].tolist()):
        v = model.transformer(x, sequence, pooled, torch.tensor([a]), ids, txt_ids, torch.tensor([GUIDANCE]))
        tensors.setdefault("first_velocity", v)
        x = x + (b - a) * v
    tensors["final"] = x
    tensors["picture"] = model.vae.decode(unpack(x, 2 * SIDE, 2 * SIDE))
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(args.out, "flux-tiny.safetensors"))
    with open(os.path.join(args.out, "flux-tiny.manifest.json"), "w") as f:
        json.dump({"prompt": prompt, "seed": SEED, "grid": [SIDE, SIDE], "guidance": GUIDANCE, "sigmas": sigmas[:-1].tolist()}, f, indent=2)
        f.write("\n")


if __name__ == "__main__":
    main()
