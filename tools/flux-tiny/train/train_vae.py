"""Fit the autoencoder of flux-tiny: a PCA encoder (closed form) and a small convolutional decoder (trained).

The encoder is a principal component analysis of 4x4 pixel patches, 16 of 48 components, each divided by the square
root of its standard deviation so that fine detail is not drowned by flat colour. The decoder starts as the exact
inverse projection and learns a correction; it is trained on latents with a little added noise, so that it also
removes a generator's small errors.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from data import scene as S
from net.model import Decoder, Encoder
from net.sampling import VAE, fast_bfloat16, picture_tensor


SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "models", "flux-tiny")


def batch(rng, n, size):
    return picture_tensor([S.render(S.random_scene(rng), size) for _ in range(n)]).contiguous()


@torch.no_grad()
def fit_pca(rng, power=0.5):
    """Encoder, the inverse projection, and the config with the scale and shift of the latents."""
    patches = torch.cat([F.unfold(batch(rng, n, size), 4, stride=4).transpose(1, 2).reshape(-1, 48)[::2]
                         for n, size in ((1500, 128), (200, 256))])
    mean = patches.mean(0)
    cov = torch.cov(patches.T)
    val, vec = torch.linalg.eigh(cov)
    val, vec = val.flip(0)[:16], vec.flip(1)[:, :16]
    gain = val.sqrt() ** -power
    enc, dec = Encoder(), Decoder()
    w = (vec * gain).T
    enc.proj.weight.copy_(w.view(16, 3, 4, 4))
    enc.proj.bias.copy_(-w @ mean)
    dec.linear.weight.copy_((vec / gain).T.reshape(16, 3, 4, 4))
    dec.linear.bias.copy_(mean.view(3, 16).mean(1))
    z = enc(batch(rng, 400, 128))
    config = {"latent_channels": 16, "spatial_factor": 4, "scaling_factor": float(1 / z.std()),
              "shift_factor": float(z.mean()), "pca_power": power,
              "pca_variance_kept": float(val.sum() / cov.trace())}
    return enc, dec.linear.state_dict(), config


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default="run")
    ap.add_argument("--decoder-only", action="store_true", help="keep the shipped encoder and its scale, train the shipped "
                                                                "decoder further")
    ap.add_argument("--minutes", type=float, default=4)
    ap.add_argument("--batch", type=int, default=12)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--noise", type=float, default=0.25, help="largest std of the noise added to unit-variance latents")
    ap.add_argument("--device", default="cpu")
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(0)
    rng, dev = np.random.default_rng(123), args.device
    path = lambda name: os.path.join(args.out, name)
    if args.decoder_only:
        shipped = VAE.from_model(SHIPPED)
        enc, decoder = shipped.encoder, shipped.decoder.state_dict()
        config = {"latent_channels": 16, "spatial_factor": 4, "scaling_factor": shipped.scale, "shift_factor": shipped.shift}
    else:
        enc, linear, config = fit_pca(rng)
        decoder = {**Decoder().state_dict(), **{"linear." + k: v for k, v in linear.items()}}
    save_file(enc.state_dict(), path("vae_encoder.safetensors"))
    with open(path("vae_config.json"), "w") as f:
        json.dump(config, f, indent=1)
    scale = config["scaling_factor"]
    dec = Decoder()
    dec.load_state_dict(decoder)
    enc.to(dev).requires_grad_(False)
    dec.to(dev)
    opt = torch.optim.AdamW(dec.parameters(), lr=args.lr, weight_decay=0.0)
    ema = {k: v.clone() for k, v in dec.state_dict().items()}
    start, step, losses = time.time(), 0, []
    while time.time() - start < 60 * args.minutes:
        frac = (time.time() - start) / 60 / args.minutes
        for g in opt.param_groups:
            g["lr"] = args.lr * min(1, (step + 1) / 100) * max(0.02, 0.5 * (1 + np.cos(np.pi * frac)))
        x = (batch(rng, args.batch, 128) if step % 4 else batch(rng, max(1, args.batch // 4), 256)).to(dev)
        z = enc(x)
        z = z + torch.randn_like(z) / scale * (torch.rand(len(z), 1, 1, 1, device=dev) ** 2 * args.noise)
        with torch.autocast(torch.device(dev).type, dtype=torch.bfloat16, enabled=fast_bfloat16(dev)):
            y = dec(z)
        loss = (y.float() - x).abs().mean() + 2 * (y.float() - x).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(dec.parameters(), 0.5)
        opt.step()
        step += 1
        losses.append(loss.item())
        with torch.no_grad():
            d = min(0.99, step / (step + 50))
            for k, v in dec.state_dict().items():
                ema[k].lerp_(v, 1 - d)
        if step % 100 == 0:
            print(step, f"{time.time() - start:.0f} s, loss {np.mean(losses[-100:]):.4f}", flush=True)
    dec.load_state_dict(ema)
    dec.eval()
    with torch.no_grad():
        for size in (128, 256):
            x = batch(rng, 32, size).to(dev)
            z = enc(x)
            psnr = lambda a: -10 * np.log10(((a - x) / 2).pow(2).mean().item())
            line = f"{size} px: PSNR {psnr(dec(z)):.1f} dB (inverse projection {psnr(dec.linear(z).clamp(-1, 1)):.1f})"
            for s in (0.05, 0.1, 0.2):
                zn = z + s / scale * torch.randn_like(z)
                line += f"; latent noise {s}: {psnr(dec(zn)):.1f} ({psnr(dec.linear(zn).clamp(-1, 1)):.1f})"
            print(line, flush=True)
    save_file({k: v.half().float().contiguous() for k, v in ema.items()}, path("vae_decoder.safetensors"))


if __name__ == "__main__":
    main()
