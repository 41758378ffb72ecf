"""Train flux-tiny: a rectified-flow text-to-image model with the FLUX.1 architecture, on procedural scenes.

One call trains one stage (one picture size); later stages resume from the last checkpoint. The whole recipe:

    python train_vae.py
    python train.py --minutes 14 --task 64:64
    python train.py --minutes 29 --task 128:32 --resume
    python train.py --minutes 18 --task 128:32 256:8 --resume --lr-end 3e-4 --ema 0.993
    python train.py --minutes 6 --task 128:32 256:8 --resume --guidance --lr 6e-4 --lr-end 0 --ema 0.99 --warmup 5

On a GPU add `--device cuda --workers 14` and larger batches.
"""
import argparse
import copy
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import model
import scene as S
from model import Decoder, Encoder, FluxTransformer2DModel, TextEncoder, image_ids, pack, unpack

CONFIG = dict(patch_size=1, in_channels=64, out_channels=None, num_layers=2, num_single_layers=4,
              attention_head_dim=32, num_attention_heads=4, joint_attention_dim=128, pooled_projection_dim=64,
              guidance_embeds=True, axes_dims_rope=[8, 12, 12])
TEXT_CONFIG = dict(vocab_size=len(S.vocabulary()), max_length=S.MAX_TOKENS, dim=128, pooled_dim=64, layers=2, heads=4,
                   pad_id=0)
PROMPTS = ["a red circle left of a striped blue square on a grey background",
           "a large yellow star in the night sky",
           "a green triangle above an orange ring on a white to pink gradient background",
           "three pink hearts on a black background",
           "a small white heart inside a large red circle over green hills",
           "a dotted purple diamond over the sea",
           "a red cross , a yellow star and a blue circle in a row on a white background",
           "a checkered black square on a cyan background",
           "a large orange circle at the top over the sea",
           "four small yellow stars in the night sky",
           "a striped red heart right of a green square on a checkered grey background",
           "a white ring at the bottom right on a blue to purple gradient background"]


class Scenes(torch.utils.data.IterableDataset):
    """Endless batches of (uint8 pictures, token ids)."""

    def __init__(self, size, batch, seed):
        self.size, self.batch, self.seed = size, batch, seed

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([*self.seed, info.id if info else 0])
        if info:
            torch.set_num_threads(1)
        while True:
            scenes = [S.random_scene(rng) for _ in range(self.batch)]
            x = np.stack([S.render(s, self.size) for s in scenes])
            x = torch.from_numpy((x * 255 + 0.5).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()
            yield x, torch.tensor([S.encode(S.caption(s)) for s in scenes])


class Task:
    """Scenes of one size, and how to train on them."""

    def __init__(self, spec, args, done):
        self.size, self.batch, self.keep = (list(map(int, spec.split(":"))) + [0])[:3]
        data = Scenes(self.size, self.batch, [args.seed, done, self.size, self.keep])
        self.data = iter(torch.utils.data.DataLoader(data, batch_size=None, num_workers=args.workers,
                                                     prefetch_factor=4 if args.workers else None))
        self.img_ids = image_ids(self.size // 8, self.size // 8, args.device)
        self.shift = {64: 2.0, 128: 4.5}.get(self.size, 8.0)  # of the logit-normal sigmas: more noise for more tokens
        self.name = f"{self.size}px" + (f"/{self.keep}" if self.keep else "") + ("+guidance" if args.guidance else "")
        self.losses = []


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
        weights = lambda part: load_file(os.path.join(folder, f"vae_{part}.safetensors"))
        return cls(weights("encoder"), weights("decoder"), config["shift_factor"], config["scaling_factor"], device)

    @classmethod
    def from_model(cls, folder, device="cpu"):
        """The decoder of a model directory, and the encoder that lies beside this script."""
        with open(os.path.join(folder, "model_index.json")) as f:
            config = json.load(f)["decoder"]
        encoder = load_file(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vae_encoder.safetensors"))
        decoder = torch.jit.load(os.path.join(folder, config["file"]), map_location="cpu").state_dict()
        return cls(encoder, decoder, config["shiftFactor"], config["scalingFactor"], device)

    def encode(self, x):
        return (self.encoder(x) - self.shift) * self.scale

    def decode(self, latent):
        return self.decoder(latent / self.scale + self.shift)


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


def attend_fp32(q, k, v):
    """Attention in fp32 under bf16 autocast: on CPUs its backward pass is twice as fast for few tokens."""
    if q.shape[2] > 512:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default="run")
    ap.add_argument("--vae", help="folder of train_vae.py, or a model directory (default: --out)")
    ap.add_argument("--resume", nargs="?", const="last", help="continue from this checkpoint (default: the run's last)")
    ap.add_argument("--task", nargs="+", default=["128:32"],
                    help="picture size:batch, or size:batch:tokens to train on that many randomly kept picture "
                         "tokens; the steps take turns between the tasks")
    ap.add_argument("--minutes", type=float, default=10)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--lr-end", type=float, default=None, help="linear decay to this rate (default: constant)")
    ap.add_argument("--warmup", type=int, default=100)
    ap.add_argument("--drop", type=float, default=0.1, help="share of captions dropped")
    ap.add_argument("--ema", type=float, default=0.998)
    ap.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    ap.add_argument("--guidance", action="store_true", help="guidance distillation against the starting EMA weights")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--workers", type=int, default=0, help="processes that draw scenes")
    ap.add_argument("--threads", type=int, default=1,
                    help="split each batch over this many threads (CPU: the number of cores, with OMP_NUM_THREADS=1)")
    ap.add_argument("--micro", type=int, default=16, help="samples per micro-batch when --threads > 1")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--sample-every", type=float, default=4, help="minutes between sample sheets and checkpoints")
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(args.seed)
    dev = args.device
    if dev == "cpu":
        model.attend = attend_fp32

    folder = args.vae or args.out
    shipped = os.path.exists(os.path.join(folder, "model_index.json"))
    vae = VAE.from_model(folder, dev) if shipped else VAE.from_run(folder, dev)
    net = torch.nn.ModuleDict({"transformer": FluxTransformer2DModel(**CONFIG), "text": TextEncoder(**TEXT_CONFIG)})
    net["transformer"].init_weights()
    net.to(dev)
    print(f"{sum(p.numel() for p in net['transformer'].parameters()) / 1e6:.2f} M parameters, "
          f"text encoder {sum(p.numel() for p in net['text'].parameters()) / 1e6:.2f} M", flush=True)
    hidden = [p for n, p in net.named_parameters() if p.ndim == 2 and "blocks" in n]
    other = [p for n, p in net.named_parameters() if not (p.ndim == 2 and "blocks" in n)]
    if args.optimizer == "muon":
        opts = [torch.optim.Muon(hidden[i::args.threads], lr=args.lr, weight_decay=0.01, momentum=0.95,
                                 adjust_lr_fn="match_rms_adamw") for i in range(args.threads)]
        opts += [torch.optim.AdamW(other, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)]
    else:
        opts = [torch.optim.AdamW(hidden + other, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)]
    ema = copy.deepcopy(net).requires_grad_(False)
    seen, done = {}, 0
    if args.resume:
        path = os.path.join(args.out, "last.pt") if args.resume == "last" else args.resume
        ck = torch.load(path, map_location=dev)
        net.load_state_dict(ck["net"])
        ema.load_state_dict(ck["ema"])
        seen, done = ck["seen"], ck["steps"]
        if len(opts) == len(ck["opts"]):
            for o, s in zip(opts, ck["opts"]):
                o.load_state_dict(s)
    teacher = copy.deepcopy(ema) if args.guidance else None

    tasks = [Task(spec, args, done) for spec in args.task]
    txt_ids = torch.zeros(S.MAX_TOKENS, 3, device=dev)
    null = torch.tensor(S.encode(""), device=dev)
    cast = lambda: torch.autocast(torch.device(dev).type, dtype=torch.bfloat16)

    def checkpoint():
        torch.save({"net": net.state_dict(), "ema": ema.state_dict(), "opts": [o.state_dict() for o in opts],
                    "seen": seen, "steps": done}, os.path.join(args.out, "last.pt.tmp"))
        os.replace(os.path.join(args.out, "last.pt.tmp"), os.path.join(args.out, "last.pt"))
        for size in sorted({task.size for task in tasks}):
            with cast():
                latent = sample(ema["transformer"], ema["text"], PROMPTS, size, 20, shift=2.0, device=dev)
            sheet(vae.decode(latent.float())).save(os.path.join(args.out, f"{done:06d}-{size}px.png"))

    params = list(net.parameters())
    pool = ThreadPoolExecutor(args.threads) if args.threads > 1 else None

    def loss_and_grads(x0, noise, sigma, guidance, ids, img_ids, weight):
        xt = x0 + sigma[:, None, None] * (noise - x0)
        target = noise - x0
        with cast():
            if teacher is not None:  # v = c + (w - 1) (c - u), with c estimated by the data and c - u by the teacher
                with torch.no_grad():
                    pooled, seq = teacher["text"](torch.cat([ids, null.expand_as(ids)]))
                    both = lambda t: torch.cat([t, t])
                    c, u = teacher["transformer"](both(xt), seq, pooled, both(sigma), img_ids, txt_ids,
                                                  both(guidance)).float().chunk(2)
                target = target + (guidance - 1)[:, None, None] * (c - u)
            pooled, seq = net["text"](ids)
            v = net["transformer"](xt, seq, pooled, sigma, img_ids, txt_ids, guidance)
        loss = (v.float() - target).pow(2).mean() * weight
        return loss.item(), torch.autograd.grad(loss, params)

    start = last = time.time()
    step, count = 0, 0
    while time.time() - start < 60 * args.minutes:
        frac = (time.time() - start) / (60 * args.minutes)
        lr = args.lr if args.lr_end is None else args.lr + (args.lr_end - args.lr) * frac
        lr *= min(1.0, (step + 1) / args.warmup)
        for o in opts:
            for group in o.param_groups:
                group["lr"] = lr
        task = tasks[step % len(tasks)]
        pictures, ids = next(task.data)
        x0 = pack(vae.encode(pictures.to(dev).float() / 127.5 - 1))
        ids = torch.where((torch.rand(len(x0), 1) < args.drop).to(dev), null, ids.to(dev))
        img_ids = task.img_ids
        if task.keep:
            kept = torch.randperm(len(img_ids))[: task.keep].sort().values.to(dev)
            x0, img_ids = x0[:, kept], img_ids[kept]
        noise = torch.randn_like(x0)
        sigma = shifted(torch.sigmoid(torch.randn(len(x0), device=dev)), task.shift)
        guidance = 1 + 5 * torch.rand(len(x0), device=dev)
        parts = max(args.threads, round(len(x0) / args.micro)) if pool else 1
        chunks = [list(c) for c in zip(*(t.chunk(parts) for t in (x0, noise, sigma, guidance, ids)))]
        run = pool.map if pool else map
        results = list(run(lambda c: loss_and_grads(*c, img_ids, len(c[0]) / len(x0)), chunks))
        loss = sum(r[0] for r in results)
        for p, *grads in zip(params, *(r[1] for r in results)):
            p.grad = torch.stack(grads).sum(0) if len(grads) > 1 else grads[0]
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        list(run(lambda o: o.step(), opts))
        step, done = step + 1, done + 1
        seen[task.name] = seen.get(task.name, 0) + len(x0)
        count += len(x0)
        with torch.no_grad():
            decay = min(args.ema, (1 + done) / (10 + done))
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        task.losses.append(loss)
        if step % 25 == 0:
            dt = time.time() - start
            print(f"step {done}, {dt / 60:.1f} min, {count} samples, {count / dt:.1f}/s, lr {lr:.1e}, loss "
                  + ", ".join(f"{task.name} {np.mean(task.losses[-25:]):.4f}" for task in tasks), flush=True)
        if time.time() - last > 60 * args.sample_every:
            checkpoint()
            last = time.time()
    checkpoint()
    print("seen:", seen, flush=True)


if __name__ == "__main__":
    main()
