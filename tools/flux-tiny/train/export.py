"""Write a training run as a jit-flux model directory, and check what was written.

    python -m train.export --run run --out ../../models/flux-tiny
    python -m train.export --run run --checkpoint checkpoint.safetensors
    python -m train.export --weights checkpoint.safetensors --out model

Writes transformer.pt and text_encoder.pt (TorchScript, float32; the EMA weights) and tokenizer.json, and with --vae also
vae_decoder.pt and the latents' scale and shift in model_index.json; without it, the shipped decoder stays. --half stores
the transformer in float16, which its weights are rounded to anyway: wider ones would not fit into the package else. The
bundled model's archives whose code runs are pinned by SHA-256: --pin writes the hashes into src/engine/trusted-archives.ts.
--checkpoint writes the EMA weights with the heads of the layout losses in float16 and nothing else: what train.py --init
goes on from, and what --weights exports, on another machine.
"""
import argparse
import copy
import hashlib
import json
import os
import re
import shutil

import torch
from safetensors.torch import load_file, save_file

from data import scene as S
from net.config import CONFIG, TEXT_CONFIG
from net.model import FluxTransformer2DModel, TextEncoder, image_ids
from net.sampling import VAE, config_of
from train.train import SHIPPED

PINS = os.path.join(SHIPPED, "..", "..", "src", "engine", "trusted-archives.ts")
INDEX = {
    "format": "jit-flux-model", "version": 1, "name": "flux-tiny", "license": "Apache-2.0",
    "text": {"type": "torchscript", "file": "text_encoder.pt", "tokenizer": "tokenizer.json",
             "length": S.MAX_TOKENS},
    "transformer": {"file": "transformer.pt", "ropeAxes": CONFIG["axes_dims_rope"]},
    "decoder": {"type": "torchscript", "file": "vae_decoder.pt"},
    "defaults": {"width": 256, "height": 256, "guidance": 3.5},
}


def module(cls, config, state, prefix):
    m = cls(**config)
    # Through fp16, so that a half-precision copy of the model has exactly the same weights.
    m.load_state_dict({k[len(prefix) + 1:]: v.half().float() for k, v in state.items() if k.startswith(prefix + ".")})
    return m.eval().requires_grad_(False)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--run", default="run", help="folder of train.py")
    ap.add_argument("--weights", help="a file of --checkpoint, instead of a run")
    ap.add_argument("--vae", default=None, help="folder of train_vae.py, if its autoencoder is to be shipped")
    ap.add_argument("--out", default="model")
    ap.add_argument("--pin", action="store_true", help="pin the hashes of the new archives in the package's source")
    ap.add_argument("--half", action="store_true", help="store the transformer in float16")
    ap.add_argument("--checkpoint", help="write this file instead")
    args = ap.parse_args()
    state = load_file(args.weights) if args.weights else torch.load(os.path.join(args.run, "last.pt"), map_location="cpu")["ema"]
    if args.checkpoint:
        save_file({k: v.half() for k, v in state.items()}, args.checkpoint)
        return
    os.makedirs(args.out, exist_ok=True)
    path = lambda name: os.path.join(args.out, name)
    vae = VAE.from_run(args.vae) if args.vae else VAE.from_model(SHIPPED)
    tensors = {k.removeprefix("transformer."): v for k, v in state.items() if k.startswith("transformer.")}
    transformer = module(FluxTransformer2DModel, config_of(tensors, CONFIG["axes_dims_rope"]), state, "transformer")
    text = module(TextEncoder, TEXT_CONFIG, state, "text")
    archives = {"transformer.pt": copy.deepcopy(transformer).half() if args.half else transformer, "text_encoder.pt": text}
    if args.vae:
        archives["vae_decoder.pt"] = vae.decoder
    elif os.path.realpath(args.out) != os.path.realpath(SHIPPED):
        shutil.copy(os.path.join(SHIPPED, "vae_decoder.pt"), path("vae_decoder.pt"))
    for name, m in archives.items():
        torch.jit.script(m).save(path(name))
    with open(path("tokenizer.json"), "w") as f:
        json.dump(S.tokenizer_json(), f, indent=1)
    index = json.load(open(path("model_index.json"))) if os.path.exists(path("model_index.json")) else INDEX
    index["transformer"] = INDEX["transformer"]
    index["decoder"].update(channels=16, spatialFactor=4, scalingFactor=vae.scale, shiftFactor=vae.shift)
    with open(path("model_index.json"), "w") as f:
        json.dump(index, f, indent=2)
        f.write("\n")
    check(path, transformer, text, vae.decoder)
    hashes = {}
    for name in ("transformer.pt", "text_encoder.pt", "vae_decoder.pt"):
        with open(path(name), "rb") as f:
            hashes[name] = hashlib.sha256(f.read()).hexdigest()
        print(hashes[name], name, os.path.getsize(path(name)))
    if args.pin:
        with open(PINS) as f:
            source = f.read()
        for name in ("text_encoder.pt", "vae_decoder.pt"):
            source, n = re.subn(rf"(// {re.escape(name)}\n\s*')[0-9a-f]{{64}}'", rf"\g<1>{hashes[name]}'", source)
            assert n == 1, f"{PINS} has no pin of {name}"
        with open(PINS, "w") as f:
            f.write(source)


@torch.no_grad()
def check(path, transformer, text, decoder):
    """Any number of picture tokens, any batch, the same numbers as eager; the tokenizer file."""
    scripted = torch.jit.load(path("transformer.pt")).float()
    for b, n in ((1, 256), (3, 300), (2, 1024), (4, 7)):
        ids = image_ids(32, 32)[torch.randperm(1024)[:n]] if n != 256 else image_ids(16, 16)
        x = (torch.randn(b, n, 64), torch.randn(b, S.MAX_TOKENS, 128), torch.randn(b, 64), torch.rand(b), ids,
             torch.zeros(S.MAX_TOKENS, 3), torch.full((b,), 3.5))
        for _ in range(3):  # the profiling executor specialises on the second call
            diff = (scripted(*x) - transformer(*x)).abs().max().item()
        print(f"transformer.pt batch {b}, {n} tokens: largest difference to eager {diff:.2e}")
    ids = torch.tensor([S.encode("a red circle over the sea"), S.encode("")])
    print("text_encoder.pt:", [f"{(a - b).abs().max().item():.1e}" for a, b in
                               zip(torch.jit.load(path("text_encoder.pt"))(ids), text(ids))])
    z = torch.randn(2, 16, 48, 32)
    print("vae_decoder.pt:", f"{(torch.jit.load(path('vae_decoder.pt'))(z) - decoder(z)).abs().max().item():.1e}")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return
    tokenizer = Tokenizer.from_file(path("tokenizer.json"))
    for c in ("a red cross , a yellow star and a blue circle in a row on a white background", "", "A Red circle!"):
        assert tokenizer.encode(c).ids == S.encode(c), c
    print("tokenizer.json agrees")


if __name__ == "__main__":
    main()
