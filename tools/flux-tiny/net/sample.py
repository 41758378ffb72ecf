"""Prompt to picture with flux-tiny in plain PyTorch: Euler steps from sigma 1 to 0, every token in every step.

    python -m net.sample "a red circle left of a striped blue square on a grey background" --size 256 --out picture.png
"""
import argparse
import json
import math
import os

import torch

from net.model import FluxTransformer2DModel, TextEncoder
from net.config import TEXT_CONFIG
from net.sampling import VAE, config_of, sample, sheet, weights

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.normpath(os.path.join(HERE, "..", "..", "..", "models", "flux-tiny"))


def eager(module, state):
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


class FluxTiny:
    """The model in a model directory as export.py writes it."""

    def __init__(self, folder=MODEL, device="cpu", bf16=False):
        self.bf16, self.device = bf16, device
        with open(os.path.join(folder, "model_index.json")) as f:
            rope_axes = json.load(f)["transformer"]["ropeAxes"]
        state = weights(folder, "transformer.pt")
        self.transformer = eager(FluxTransformer2DModel(**config_of(state, rope_axes)), state)
        self.text_encoder = eager(TextEncoder(**TEXT_CONFIG), weights(folder, "text_encoder.pt"))
        self.vae = VAE.from_model(folder, device)
        self.transformer.to(device)
        self.text_encoder.to(device)

    @torch.no_grad()
    def __call__(self, prompts, size=128, steps=50, guidance=3.5, cfg=None, seed=0):
        """Pictures [B, 3, size, size] in [-1, 1]. cfg: true classifier-free guidance instead of the embedded one."""
        tokens = (size // 8) ** 2
        mu = 0.5 + (tokens - 256) / (4096 - 256) * 0.65  # FLUX.1's resolution-dependent time shift
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            latent = sample(self.transformer, self.text_encoder, prompts, size, steps, guidance, math.exp(mu), seed,
                            cfg, self.device)
        return self.vae.decode(latent.float())


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("prompt", nargs="+")
    ap.add_argument("--model", default=MODEL, help="model directory (default: models/flux-tiny)")
    ap.add_argument("--size", type=int, default=256)
    ap.add_argument("--steps", type=int, default=50)
    ap.add_argument("--guidance", type=float, default=3.5)
    ap.add_argument("--cfg", type=float, help="true classifier-free guidance at this scale")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--columns", type=int, default=4)
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--out", default="picture.png")
    args = ap.parse_args()
    model = FluxTiny(args.model, args.device)
    sheet(model(args.prompt, args.size, args.steps, args.guidance, args.cfg, args.seed), args.columns).save(args.out)
