"""The autoencoder with scaled latents, and Euler sampling in plain PyTorch: shared by the trainer and the tools."""
import json
import os

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from data import scene as S
from net.config import CONFIG
from net.model import Decoder, Encoder, image_ids, pack, unpack


def weights(folder, name):
    """The tensors of a TorchScript archive (which may run its code: only for archives you trust)."""
    return torch.jit.load(os.path.join(folder, name), map_location="cpu").state_dict()


def config_of(state, rope_axes):
    """The sizes of a transformer, from its tensors."""
    count = lambda prefix: len({k.split(".")[1] for k in state if k.startswith(prefix + ".")})
    width, channels = state["x_embedder.weight"].shape
    head = len(state["transformer_blocks.0.attn.norm_q.weight"])
    return {**CONFIG, "in_channels": channels, "num_layers": count("transformer_blocks"),
            "num_single_layers": count("single_transformer_blocks"), "attention_head_dim": head,
            "num_attention_heads": width // head, "axes_dims_rope": rope_axes}


def fast_bfloat16(device):
    """Whether products are faster in bfloat16 than in float32: on GPUs, and on CPUs with AVX-512."""
    return device != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability()


class VAE:
    """The autoencoder, with latents scaled to unit variance."""

    def __init__(self, encoder, decoder, shift, scale, device="cpu"):
        self.encoder, self.decoder = Encoder(), Decoder()
        self.encoder.load_state_dict(encoder)
        self.decoder.load_state_dict(decoder)
        self.encoder.to(device).requires_grad_(False)
        self.decoder.to(device).requires_grad_(False).eval()
        self.shift, self.scale = shift, scale

    @classmethod
    def from_run(cls, folder, device="cpu"):
        """The files that train_vae.py writes."""
        with open(os.path.join(folder, "vae_config.json")) as f:
            config = json.load(f)
        part = lambda name: load_file(os.path.join(folder, f"vae_{name}.safetensors"))
        return cls(part("encoder"), part("decoder"), config["shift_factor"], config["scaling_factor"], device)

    @classmethod
    def from_model(cls, folder, device="cpu"):
        """The decoder of a model directory, and the encoder that lies beside this script."""
        with open(os.path.join(folder, "model_index.json")) as f:
            config = json.load(f)["decoder"]
        encoder = load_file(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vae_encoder.safetensors"))
        return cls(encoder, weights(folder, config["file"]), config["shiftFactor"], config["scalingFactor"], device)

    def encode(self, x):
        return (self.encoder(x) - self.shift) * self.scale

    def decode(self, latent):
        return self.decoder(latent / self.scale + self.shift)


def picture_tensor(pictures):
    """Pictures [H, W, 3] in [0, 1] of scene.py -> [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) * 2 - 1


def shifted(u, shift):
    """FLUX's time shift; shift = exp(mu)."""
    return shift * u / (1 + (shift - 1) * u)


@torch.no_grad()
def sample(transformer, text_encoder, prompts, size, steps=50, guidance=3.5, shift=2.0, seed=0, cfg=None,
           device="cpu"):
    """Euler from sigma 1 to 0. Returns latents [B, 16, size/4, size/4]. cfg: true classifier-free guidance."""
    n, side = len(prompts), size // 8
    gen = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 16, size // 4, size // 4, generator=gen)
    x = pack(noise).to(device)
    ids = torch.tensor([S.encode(p) for p in prompts], device=device)
    pooled, seq = text_encoder(ids)
    if cfg is not None:
        null_pooled, null_seq = text_encoder(torch.tensor([S.encode("")] * n, device=device))
    img_ids, txt_ids = image_ids(side, side, device), torch.zeros(ids.shape[1], 3, device=device)
    g = torch.full((n,), float(guidance), device=device)
    sigmas = shifted(torch.linspace(1, 0, steps + 1, device=device), shift)
    for a, b in zip(sigmas[:-1], sigmas[1:]):
        t = a.expand(n)
        v = transformer(x, seq, pooled, t, img_ids, txt_ids, g)
        if cfg is not None:
            u = transformer(x, null_seq, null_pooled, t, img_ids, txt_ids, g)
            v = u + cfg * (v - u)
        x = x + (b - a) * v
    return unpack(x, size // 4, size // 4)


def sheet(pictures, columns=4):
    """[B, 3, H, W] in [-1, 1] -> one PIL picture."""
    x = ((pictures.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(list(x[i:i + columns]), 1) for i in range(0, len(x), columns)]
    return Image.fromarray(np.concatenate(rows, 0))
