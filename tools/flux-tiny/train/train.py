"""Train flux-tiny: a rectified-flow text-to-image model with the FLUX.1 architecture, on procedural scenes.

    python -m train.train --run run                      every stage of recipe.json, from where the run stands
    python -m train.train --run run --device cuda --workers 12 --recipe train/recipe-gpu.json

Safe to kill at any time: the run is written every few minutes and the same command goes on with it. Stages are counted
in pictures, so a run is the same on every machine but for rounding, or in seconds, where a machine is lent for a time.
What was seen, and every loss, is appended to run/log.jsonl (curves.py draws it). On CPUs with AVX-512 and on GPUs the
products are in bfloat16, else in float32.

On CPUs processes draw the scenes and every step is split over threads. On a GPU they only think scenes up; drawing,
encoding and learning are one CUDA graph per task.

Beside the plain recipe, because a small model has few pictures to learn from:
- The initial weights are open (start_open).
- Layout loss. A head on a middle block is asked what every token shows (labels.py): shape, colour, fill, size, offset
  from the object's centre; another one on the last block, which 4x4 points of the token an object covers. A shape is a
  few edge pixels to the velocity loss, and one class in eight to the first of these. The heads are not exported.
- The text encoder can read before training starts (train_text.py).
"""
import argparse
import contextlib
import copy
import json
import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from data import labels as L
from net import model
from data import scene as S
from data import scene_batch
from train import smooth_guidance
from net.config import CONFIG, PROMPTS, TEXT_CONFIG
from net.model import FluxTransformer2DModel, TextEncoder, image_ids, pack
from net.sampling import VAE, fast_bfloat16, sample, sheet, shifted, weights

HERE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.normpath(os.path.join(HERE, "..", "..", "..", "models", "flux-tiny"))
TEXT_FILE = "text_pretrained.safetensors"  # of train_text.py
LAYOUT_BLOCK, COVERAGE_BLOCK = 1, 3  # the single blocks whose outputs the two heads read
LABELS = len(L.TOKEN_CLASSES) + L.GEOMETRY


# --------------------------------------------------------------------------------------------------------- data


def some_tokens(rng, side, keep):
    """Sorted indices of `keep` tokens of a picture of side x side: a square of neighbours, where edges go on from token
    to token, for half of them; the others anywhere.
    """
    width = int((keep / 2) ** 0.5)
    row, column = rng.integers(side - width + 1, size=2)
    square = np.zeros((side, side), bool)
    square[row:row + width, column:column + width] = True
    inside, outside = np.flatnonzero(square), np.flatnonzero(~square)
    return np.sort(np.concatenate([inside, rng.choice(outside, keep - len(inside), replace=False)]))


def tokens_near_objects(rng, scene, side, keep):
    """Sorted indices of `keep` tokens, at most four in five of them around the scene's objects, the others anywhere else."""
    x, y = L.centres(side, np.arange(side * side))
    near = np.zeros(side * side, bool)
    for o in scene["objects"]:
        near |= np.maximum(abs(x - o["x"]), abs(y - o["y"])) < 1.15 * o["r"] + 0.5 / side
    chosen = rng.permutation(np.flatnonzero(near))[:keep * 4 // 5]
    others = np.setdiff1d(np.arange(side * side), chosen)
    return np.sort(np.concatenate([chosen, rng.choice(others, keep - len(chosen), replace=False)]))


def training_scene(rng, only=None):
    """A scene whose caption may be trained on and has one of the words `only` (None: any caption).

    Where a caption says nothing of it, its layout is such a word as well: "one", "two", "count".
    """
    while True:
        scene = S.split_scene(rng, evaluation=False)
        if only is None or not {scene["layout"], *S.caption(scene).split()}.isdisjoint(only):
            return scene


def worker_rng(seed):
    """A process of a DataLoader has its own stream of scenes, and one thread."""
    info = torch.utils.data.get_worker_info()
    if info:
        torch.set_num_threads(1)
    return np.random.default_rng([*seed, info.id if info else 0])


class Scenes(torch.utils.data.IterableDataset):
    """Endless batches of (uint8 pictures, token ids, all token labels, tokens).

    With `keep`, a picture is the row of the kept tokens' patches, and nothing else of it is drawn. Tokens are [B, N]: the
    same ones in the whole batch, or with `near` in every picture those around its objects.
    """

    def __init__(self, size, batch, seed, keep=0, only=None, near=False):
        self.size, self.batch, self.seed, self.keep, self.only, self.near = size, batch, seed, keep, only, near

    def __iter__(self):
        rng = worker_rng(self.seed)
        side = self.size // 8
        every = np.arange(side * side)
        while True:
            scenes = [training_scene(rng, self.only) for _ in range(self.batch)]
            if self.near:
                tokens = np.stack([tokens_near_objects(rng, s, side, self.keep) for s in scenes])
            else:
                tokens = np.stack([some_tokens(rng, side, self.keep) if self.keep else every] * self.batch)
            if self.keep:
                x = np.stack([S.render_patches(s, self.size, t) for s, t in zip(scenes, tokens)])
            else:
                x = np.stack([S.render(s, self.size) for s in scenes])
            x = torch.from_numpy((x * 255 + 0.5).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()
            labels = np.stack([L.all_token_labels(s, side, t) for s, t in zip(scenes, tokens)])
            yield x, torch.tensor([S.encode(S.caption(s)) for s in scenes]), torch.from_numpy(labels), torch.from_numpy(tokens)


def loader(dataset, workers):
    return iter(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers,
                                            prefetch_factor=4 if workers else None))


class Rows(torch.utils.data.IterableDataset):
    """Endless chunks of scenes as rows of scene_batch.py."""

    def __init__(self, chunk, seed, only=None):
        self.chunk, self.seed, self.only = chunk, seed, only

    def __iter__(self):
        rng = worker_rng(self.seed)
        while True:
            yield torch.from_numpy(np.stack([scene_batch.row(training_scene(rng, self.only)) for _ in range(self.chunk)]))


class ScenePool:
    """Scenes on the device, to be drawn from at random. Processes think up new ones, which replace the oldest, so a scene
    is seen a few times, with other noise and at other sizes; a step never waits for them.
    """

    CHUNK = 1024

    def __init__(self, capacity, seed, workers, device, only=None):
        chunks = loader(Rows(self.CHUNK, seed, only), workers)
        self.rows = torch.cat([next(chunks) for _ in range(capacity // self.CHUNK)]).to(device)
        self.position = 0
        self.fresh = queue.Queue(8)
        if workers:
            threading.Thread(target=self.fetch, args=(chunks,), daemon=True).start()

    def fetch(self, chunks):
        for chunk in chunks:
            self.fresh.put(chunk)

    def refresh(self):
        try:
            chunk = self.fresh.get_nowait()
        except queue.Empty:
            return
        self.rows[self.position:self.position + self.CHUNK].copy_(chunk.pin_memory() if self.rows.is_cuda else chunk, non_blocking=True)
        self.position = (self.position + self.CHUNK) % len(self.rows)

    def draw(self, n):
        return self.rows[torch.randint(len(self.rows), (n,), device=self.rows.device)]


class Task:
    """Pictures of one size: {"size", "batch", "shift"}, and perhaps
    - "keep", the number of tokens trained on; with "near": true those around the objects,
    - "only", words of which a caption must have one (training_scene),
    - "pattern_shift" instead of "shift" where the caption names a pattern. Patterns are finer than the model can place from
      a caption: at high noise their error is most of the loss and drowns that of the outlines.
    """

    def __init__(self, spec, device):
        self.size, self.batch, self.keep = spec["size"], spec["batch"], spec.get("keep", 0)
        self.only, self.near = spec.get("only"), spec.get("near", False)
        self.shift = spec["shift"]  # of the logit-normal sigmas: the more tokens, the more noise hides as much
        self.pattern_shift = spec.get("pattern_shift", self.shift)
        if self.near and not self.keep:
            raise ValueError(f'{self.size}px: "near" needs "keep"')
        self.patterns = torch.tensor([S.encode(fill)[0] for fill in S.FILLS], device=device)
        self.name = f"{self.size}px" + (f"/{self.keep}" if self.keep else "") + (" near objects" if self.near else "")
        self.side = self.size // 8
        self.img_ids = image_ids(self.side, self.side, device)

    def sigmas(self, ids):
        """Of pictures with these captions: stratified over the batch, in random order."""
        n, device = len(ids), ids.device
        u = (torch.rand(n, device=device).argsort() + torch.rand(n, device=device)) / n
        patterned = (ids[..., None] == self.patterns).flatten(1).any(1)
        shift = torch.where(patterned, self.pattern_shift, self.shift)
        return shifted(torch.sigmoid(torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))), shift).float()


# ------------------------------------------------------------------------------------------------------- losses


class Head(nn.Module):
    """A question about the hidden states of picture tokens [B, N, d]."""

    def __init__(self, d, outputs):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.fc = nn.Linear(d, 2 * d)
        self.out = nn.Linear(2 * d, outputs)

    def forward(self, h):
        return self.out(F.silu(self.fc(self.norm(h))))


def mean(values, where):
    """Over the places that are asked; 0 for none: a few random tokens may all be background. Nothing here may depend on
    how many there are, or it would not fit into a CUDA graph.
    """
    where = where.float()
    return (values * where).sum() / where.sum().clamp(min=1)


def layout_losses(out, labels):
    """Cross entropies and a squared error by name, and the share of object tokens whose shape is told."""
    parts = out.float().split([*L.TOKEN_CLASSES.values(), L.GEOMETRY], -1)
    near = labels[..., 0] > 0
    losses = {}
    for k, name in enumerate(L.TOKEN_CLASSES):
        entropy = F.cross_entropy(parts[k].flatten(0, 1), labels[..., k].flatten().long().clamp(min=0), reduction="none")
        losses[name] = mean(entropy.view_as(near), near)
        if name in ("shape", "covered"):  # most tokens are background: weighed apart, or the shapes would not count
            losses[f"{name} of background"] = mean(entropy.view_as(near), ~near)
    losses["geometry"] = mean((parts[-1] - labels[..., len(L.TOKEN_CLASSES):]).pow(2).mean(-1), near)
    told = mean((parts[0].argmax(-1) == labels[..., 0]).float(), near)
    return losses, told


def coverage_loss(out, covered):
    """Half from the tokens on an edge, half from all others."""
    loss = F.binary_cross_entropy_with_logits(out.float(), covered, reduction="none").mean(-1)
    share = covered.mean(-1)
    edge = (share > 0) & (share < 1)
    return 0.5 * (mean(loss, edge) + mean(loss, ~edge))


class Hidden:
    """Keeps the output of a block, per thread: micro-batches run in several."""

    def __init__(self, block):
        self.local = threading.local()
        block.register_forward_hook(self.keep)

    def keep(self, _block, _inputs, output):
        self.local.value = output

    def take(self):
        value, self.local.value = self.local.value, None
        return value


# ---------------------------------------------------------------------------------------------------- the model


@torch.no_grad()
def start_open(transformer):
    """Initial weights from which a few thousand pictures are enough to tell shapes; with adaLN-zero it takes many more.

    - Noise passes through: the velocity contains all 64 dimensions of the noise, so half of the hidden channels start
      with them and lead to the output (velocity = latents, nearly right at high noise).
    - Gates start at 1: no block has to wait for its gate to open.
    - Queries and keys have random biases: RoPE turns the part of them that does not depend on content into functions of
      place, at once and in spite of the noise. A token learns where it is in no other way.
    """
    c = transformer.x_embedder.in_features
    transformer.x_embedder.weight[:c] = torch.eye(c)
    transformer.proj_out.weight[:, :c] = torch.eye(c)
    for module in transformer.modules():
        if isinstance(module, model.AdaLayerNorm) and module.parts > 2:
            module.linear.bias.view(module.parts // 3, 3, -1)[:, 2] = 1  # (shift, scale, gate), once or twice
    for name, module in transformer.named_modules():
        if name.endswith(("to_q", "to_k", "add_q_proj", "add_k_proj")):
            module.bias.normal_()


def build(run, device, config, init):
    net = nn.ModuleDict({"transformer": FluxTransformer2DModel(**config), "text": TextEncoder(**TEXT_CONFIG)})
    net["transformer"].init_weights()
    start_open(net["transformer"])
    text = os.path.join(run, TEXT_FILE)
    if os.path.exists(text):
        net["text"].load_state_dict(load_file(text))
    elif not init:
        print(f"no {text}: the text encoder starts without knowledge (train_text.py)", flush=True)
    d = net["transformer"].x_embedder.out_features
    net["layout"] = Head(d, sum(L.TOKEN_CLASSES.values()) + L.GEOMETRY)  # in the order of labels.token_labels
    net["coverage"] = Head(d, L.SUB**2)
    return net.to(device)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are orthogonalised by Newton-Schulz iterations (K. Jordan, 2024), scaled to AdamW's step.

    Unlike torch.optim.Muon: matrices of one shape go together, and in float32 where bfloat16 has no fast products.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(self, params, dtype, lr=0.0, momentum=0.95, weight_decay=0.01, iterations=5):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype, self.iterations = dtype, iterations

    def orthogonalise(self, g):
        x = g.to(self.dtype)
        if g.shape[-2] > g.shape[-1]:
            x = x.mT
        x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
        a, b, c = self.COEFFICIENTS
        for _ in range(self.iterations):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.mT if g.shape[-2] > g.shape[-1] else x).to(g.dtype)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                for p in params:
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                grads, moments = [p.grad for p in params], [self.state[p]["momentum"] for p in params]
                torch._foreach_lerp_(moments, grads, 1 - momentum)
                update = self.orthogonalise(torch.stack(grads).lerp_(torch.stack(moments), momentum))
                torch._foreach_mul_(params, 1 - lr * group["weight_decay"])  # lr may be a tensor, in a CUDA graph
                torch._foreach_add_(params, list((update * (-0.2 * max(shape) ** 0.5 * lr)).unbind()))


def optimizers(net, threads, dtype):
    """Muon for the blocks' matrices, AdamW for the rest; (optimizer, factor of the learning rate) each.

    Muon bears high rates; at the same one AdamW kept the outputs from settling.
    """
    blocks = [p for n, p in net["transformer"].named_parameters() if p.ndim == 2 and "blocks" in n]
    rest = [p for n, p in net["transformer"].named_parameters() if not (p.ndim == 2 and "blocks" in n)]
    muon = [Muon(blocks[i::threads], dtype) for i in range(threads)]
    on_gpu = blocks[0].is_cuda
    adam = lambda parameters: torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.0, fused=True, capturable=on_gpu)
    return [*((o, 1.0) for o in muon), (adam([*rest, *net["layout"].parameters(), *net["coverage"].parameters()]), 0.3),
            (adam(net["text"].parameters()), 0.1)]


def attend_fp32(q, k, v):
    """Attention in fp32 under bf16 autocast: on CPUs its backward pass is twice as fast for few tokens."""
    if q.shape[2] > 512:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


def rms_norm_fused(x, weight, eps):
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def rotate_complex(x, cos, sin):
    """model.rotate in three passes over memory instead of eight."""
    turns = torch.complex(cos[..., ::2], sin[..., ::2])
    y = torch.view_as_complex(x.float().unflatten(-1, [-1, 2])) * turns
    return torch.view_as_real(y).flatten(-2).to(x.dtype)


# ----------------------------------------------------------------------------------------------------- training


class Run:
    """A training run in a folder: weights, EMA, optimizer states, position in the recipe, log."""

    def __init__(self, args):
        self.args, self.device = args, args.device
        if self.device == "cpu":
            model.attend = attend_fp32
        else:
            model.rms_norm, model.rotate = rms_norm_fused, rotate_complex
            torch.backends.cudnn.allow_tf32 = False  # the autoencoder's
        self.on_device = self.device != "cpu" or args.pool > 0  # drawing as well
        has_bf16 = fast_bfloat16(self.device)
        self.cast = lambda: torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=has_bf16)
        self.vae = VAE.from_run(args.vae, self.device) if args.vae else VAE.from_model(SHIPPED, self.device)
        torch.manual_seed(args.seed)
        self.net = build(args.run, self.device, {**CONFIG, **args.sizes}, args.init)
        if args.init and args.init.endswith(".safetensors"):
            self.net.load_state_dict({k: v.float() for k, v in load_file(args.init).items()})
        elif args.init:
            for part, name in (("transformer", "transformer.pt"), ("text", "text_encoder.pt")):
                self.net[part].load_state_dict(weights(args.init, name))
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        # What is run: on a GPU a bfloat16 copy of the weights, without the conversions that autocast adds to every layer.
        self.work = copy.deepcopy(self.net).bfloat16() if self.device != "cpu" else self.net
        self.work_params = list(self.work.parameters())
        blocks = self.work["transformer"].single_transformer_blocks
        self.hidden, self.last = Hidden(blocks[LAYOUT_BLOCK]), Hidden(blocks[COVERAGE_BLOCK])
        self.opts = optimizers(self.net, args.threads, torch.bfloat16 if has_bf16 else torch.float32)
        self.params = list(self.net.parameters())
        self.stage, self.stage_pictures, self.stage_seconds, self.steps, self.seconds, self.seen = 0, 0, 0.0, 0, 0.0, {}
        self.rate = 1.0  # halved after a divergence
        self.ema_weight = torch.zeros((), device=self.device)
        self.teacher = None
        self.path = os.path.join(args.run, "last.pt")
        if os.path.exists(self.path):
            self.restore()
        self.follow()
        self.threads = ThreadPoolExecutor(args.threads) if args.threads > 1 else None
        self.memory = None
        self.scenes = {}
        self.txt_ids = torch.zeros(S.MAX_TOKENS, 3, device=self.device)
        self.null = torch.tensor(S.encode(""), device=self.device)

    POSITION = ("stage", "stage_pictures", "stage_seconds", "steps", "seconds", "seen")

    def restore(self):
        ck = torch.load(self.path, map_location=self.device)
        self.net.load_state_dict(ck["net"])
        self.ema.load_state_dict(ck["ema"])
        if len(ck["opts"]) == len(self.opts):  # else another number of threads: Muon's momentum starts anew
            for (o, _), s in zip(self.opts, ck["opts"]):
                o.load_state_dict(s)
                for group in o.param_groups:
                    if "capturable" in group:  # a run may go on where there is no GPU
                        group["capturable"] = self.device != "cpu"
        for key in self.POSITION:
            setattr(self, key, ck.get(key, 0.0))
        torch.manual_seed(self.steps)
        if ck["teacher"] is not None:
            self.teach(ck["teacher"])

    def follow(self):
        """The weights that are run follow those that are trained."""
        if self.work is not self.net:
            with torch.no_grad():
                torch._foreach_copy_(self.work_params, self.params)

    def teach(self, state=None):
        """Guidance distillation against the EMA weights at the start of its stage."""
        self.teacher = copy.deepcopy(self.ema)
        if state is not None:
            self.teacher.load_state_dict(state)
        if self.work is not self.net:
            self.teacher.bfloat16()

    def smooth_embedder(self):
        """At the end of its stage (smooth_guidance.py): of the EMA weights, and of those that another stage would go on with."""
        embedder = lambda net: net["transformer"].time_text_embed.guidance_embedder
        smoothed = copy.deepcopy(embedder(self.ema)).cpu()
        self.log(guidance_changed_by=round(smooth_guidance.smooth(smoothed), 5))
        for net in (self.ema, self.net):
            embedder(net).load_state_dict(smoothed.state_dict())
        self.follow()

    def write(self):
        norms = torch._foreach_norm([*self.params, *self.ema.parameters()])
        if not torch.stack(norms).isfinite().all():  # the losses were read some steps ago
            raise Diverged(f"step {self.steps}")
        torch.save({"net": self.net.state_dict(), "ema": self.ema.state_dict(), "opts": [o.state_dict() for o, _ in self.opts],
                    "teacher": self.teacher and self.teacher.state_dict(),
                    **{key: getattr(self, key) for key in self.POSITION}}, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)

    def log(self, **entry):
        with open(os.path.join(self.args.run, "log.jsonl"), "a") as f:
            f.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "steps": self.steps,
                                "seconds": round(self.seconds), **entry}) + "\n")

    def samples(self, size):
        with self.cast():
            latent = sample(self.ema["transformer"], self.ema["text"], PROMPTS, size, 20, shift=2.0, device=self.device)
        sheet(self.vae.decode(latent.float())).save(os.path.join(self.args.run, f"{self.steps:06d}-{size}px.png"))

    def micro_batch(self, stage, x0, noise, sigma, guidance, ids, labels, img_ids, weight):
        dtype = self.work_params[0].dtype
        xt = (x0 + sigma[:, None, None] * (noise - x0)).to(dtype)
        target = noise - x0
        with contextlib.nullcontext() if dtype == torch.bfloat16 else self.cast():
            if self.teacher is not None:
                with torch.no_grad():
                    pooled, seq = self.teacher["text"](torch.cat([ids, self.null.expand_as(ids)]))
                    both = lambda t: torch.cat([t, t])
                    plain = torch.ones_like(guidance)  # guided weights may be the teacher of a later stage
                    c, u = self.teacher["transformer"](both(xt), seq, pooled, both(sigma), both(img_ids), self.txt_ids,
                                                       both(plain)).float().chunk(2)
                difference = (guidance - 1)[:, None, None] * (c - u)
                target = c + difference  # and not data + difference: the noise of the data would hide what is to be learnt
            pooled, seq = self.work["text"](ids)
            v = self.work["transformer"](xt, seq, pooled, sigma, img_ids, self.txt_ids, guidance)
            n = self.txt_ids.shape[0]
            out = self.work["layout"](self.hidden.take()[:, n:])
            covered = self.work["coverage"](self.last.take()[:, n:])
        layout, told = layout_losses(out, labels[..., :LABELS])
        layout["coverage"] = coverage_loss(covered, labels[..., LABELS:])
        velocity = (v.float() - target).pow(2).mean()
        parts = {"coverage": 5, **stage.get("parts", {})}  # weights of some of the auxiliary losses, 1 for the others
        loss = (velocity + stage["layout"] * sum(parts.get(k, 1) * t for k, t in layout.items())) * weight
        figures = {"velocity": velocity, **({} if self.teacher is None else {"difference": difference.pow(2).mean()}),
                   "told": told, **layout}
        return {k: t.detach() * weight for k, t in figures.items()}, torch.autograd.grad(loss, self.work_params)

    def set_rate(self, stage, lr):
        """The learning rate and the EMA's weight of the next step: floats, or tensors that a CUDA graph reads."""
        for o, factor in self.opts:
            for group in o.param_groups:
                if not self.ema_weight.is_cuda:
                    group["lr"] = lr * factor
                elif isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(lr * factor)
                else:
                    group["lr"] = torch.tensor(lr * factor, device=self.device)
        self.ema_weight.fill_(1 - min(stage.get("ema", 0.999), (1 + self.steps) / (10 + self.steps)))

    def average(self):
        with torch.no_grad():
            ema = list(self.ema.parameters())
            difference = torch._foreach_sub(self.params, ema)
            torch._foreach_mul_(difference, self.ema_weight)
            torch._foreach_add_(ema, difference)

    def count(self, task, n):
        self.steps += 1
        self.stage_pictures += n
        self.seen[task.name] = self.seen.get(task.name, 0) + n

    def drop_captions(self, ids, stage):
        return torch.where(torch.rand(len(ids), 1, device=ids.device) < stage.get("drop", 0.1), self.null, ids)

    def noised(self, task, x0, ids, labels, tokens, stage):
        """The arguments of micro_batch that are split over threads; tokens [B, N]."""
        n = len(x0)
        guidance = torch.ones(n, device=x0.device)  # what the data teach
        if self.teacher is not None:
            # 1 to 6, most often about the default of 3.5, and a tenth of them 1 as the data are
            guidance += 2.5 * torch.rand(2, n, device=x0.device).sum(0) * (torch.rand(n, device=x0.device) > 0.1)
        return x0, torch.randn_like(x0), task.sigmas(ids), guidance, self.drop_captions(ids, stage), labels, task.img_ids[tokens]

    def thread_step(self, task, stage, seed):
        """A function that takes a step with scenes drawn by other processes, split over threads, and returns its figures."""
        args = self.args
        data = loader(Scenes(task.size, task.batch, seed, task.keep, task.only, task.near), args.workers)
        run = self.threads.map if self.threads else map

        def step():
            pictures, ids, labels, tokens = next(data)
            x0 = pack(self.vae.encode(pictures.float() / 127.5 - 1))
            n = len(x0)
            # Micro-batches of a few thousand tokens keep a thread's activations in the caches.
            parts = max(args.threads, round(n * x0.shape[1] / args.micro)) if self.threads else 1
            chunks = list(zip(*(t.chunk(parts) for t in self.noised(task, x0, ids, labels, tokens, stage))))
            results = list(run(lambda c: self.micro_batch(stage, *c, len(c[0]) / n), chunks))
            for p, *grads in zip(self.params, *(r[1] for r in results)):
                p.grad = torch.stack(grads).sum(0) if len(grads) > 1 else grads[0]
            nn.utils.clip_grad_norm_(self.params, 1.0)
            list(run(lambda o: o[0].step(), self.opts))
            self.average()
            return {k: sum(r[0][k] for r in results) for k in results[0][0]}

        return step

    def device_step(self, task, stage, seed):
        """The same with scenes drawn on the device."""
        key = tuple(task.only or ())
        if key not in self.scenes:
            self.scenes[key] = ScenePool(self.args.pool, seed, self.args.workers, self.device, task.only)
        return DeviceStep(self, task, stage, self.scenes[key], np.random.default_rng(seed))

    def train_stage(self, stage):
        args = self.args
        if stage.get("guidance") and self.teacher is None:
            self.teach()
        seed = [args.seed, self.stage, self.stage_pictures, self.steps]
        tasks = [Task(t, self.device) for t in stage["tasks"]]
        make = self.device_step if self.on_device else self.thread_step
        self.set_rate(stage, 0.0)
        self.memory = None  # the graphs of another stage are gone, and their memory with them
        steps = [make(task, stage, [*seed, i]) for i, task in enumerate(tasks)]
        if self.on_device:
            for made in steps:  # when all are there, since each might take the memory of another
                made.check()
            torch.manual_seed(self.steps)
        figures = {task.name: [] for task in tasks}
        start = previous = written = time.time()
        begun, step, every = self.stage_pictures, 0, 200 if self.on_device else 50
        self.log(stage=stage["name"], ready=round(start - args.started, 1))
        share = lambda: self.stage_seconds / stage["seconds"] if "seconds" in stage else self.stage_pictures / stage["pictures"]
        while (done := share()) < 1:
            lr = self.rate * (stage["lr"][0] + (stage["lr"][1] - stage["lr"][0]) * done)
            task = tasks[step % len(tasks)]
            self.set_rate(stage, lr * min(1.0, (step + 1) / stage.get("warmup", 50)))
            figures[task.name].append(steps[step % len(tasks)]())
            self.count(task, task.batch)
            step += 1
            if step % every == 0:  # also keeps the program from running far ahead of a GPU
                read = {name: {k: torch.stack([f[k] for f in fs]).mean().item() for k in fs[0]} for name, fs in figures.items() if fs}
                if not all(np.isfinite(value) for values in read.values() for value in values.values()):
                    raise Diverged(f"step {self.steps}, {stage['name']}")
                mean = {name: {k: round(value, 4) for k, value in values.items()} for name, values in read.items()}
                rate = (self.stage_pictures - begun) / (time.time() - start)
                self.log(stage=stage["name"], pictures=self.stage_pictures, seen=self.seen, lr=lr, rate=round(rate, 1), losses=mean)
                print(f"{stage['name']}: {self.stage_pictures} pictures, {rate:.1f}/s, lr {lr:.1e}; "
                      + "; ".join(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in m.items()) for name, m in mean.items()), flush=True)
                figures = {task.name: [] for task in tasks}
            now = time.time()
            self.seconds += now - previous
            self.stage_seconds += now - previous
            previous = now
            over = args.minutes and now - args.started > 60 * args.minutes
            if (now - written > 60 * args.write_every or over) and step % every == 0:  # only what was seen to be finite
                self.write()
                written = now
                if over:
                    return False
        if self.teacher is not None:
            self.smooth_embedder()
        self.stage, self.stage_pictures, self.stage_seconds, self.teacher = self.stage + 1, 0, 0.0, None
        self.write()
        largest = 256 if self.device == "cpu" else 512  # 512 px would take minutes of a CPU
        for size in sorted({task.size for task in tasks if task.size <= largest}):
            self.samples(size)
        return True


class DeviceStep:
    """A training step all of whose parts run on one device: draws, encodes, adds noise, learns. Called, it returns its figures.

    On a GPU the step is captured as a CUDA graph after a few in the ordinary way (with a learning rate of 0, see
    train_stage). A graph reads its inputs where they were when it was captured: they are this object's attributes, as others
    would be freed and their memory used for something else, without any error.
    """

    def __init__(self, run, task, stage, scenes, rng):
        if task.near:
            raise ValueError(f"{task.name}: all pictures of a step have the same tokens when they are drawn on the device")
        self.run, self.task, self.stage, self.scenes, self.rng = run, task, stage, scenes, rng
        self.tokens = torch.arange(task.keep or task.side**2, device=run.device)
        self.palette = scene_batch.palette(run.device)
        self.figures = {}
        self.replay = self.body
        if run.device != "cpu" and not run.args.no_graphs:
            self.capture()

    def body(self):
        run, task = self.run, self.task
        rows = self.scenes.draw(task.batch)
        points = scene_batch.paint(rows, *scene_batch.pixels(self.tokens, task.size), task.size, self.palette)
        labels = scene_batch.token_labels(rows, task.side, self.tokens)
        x0 = pack(run.vae.encode(scene_batch.patches(points) * 2 - 1))
        batch = run.noised(task, x0, scene_batch.token_ids(rows), labels, self.tokens.expand(task.batch, -1), self.stage)
        figures, grads = run.micro_batch(self.stage, *batch, 1.0)
        for p, g in zip(run.params, grads):
            p.grad = g.float()
        nn.utils.clip_grad_norm_(run.params, 1.0)
        for o, _ in run.opts:
            o.step()
        run.follow()
        run.average()
        for k, value in figures.items():
            self.figures.setdefault(k, torch.zeros((), device=run.device)).copy_(value)

    def prepare(self):
        self.scenes.refresh()
        if self.task.keep:
            chosen = torch.from_numpy(some_tokens(self.rng, self.task.side, self.task.keep))
            self.tokens.copy_(chosen.pin_memory() if self.tokens.is_cuda else chosen, non_blocking=True)

    def capture(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.prepare()
                self.body()
                self.run.count(self.task, self.task.batch)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        self.run.memory = self.run.memory or torch.cuda.graph_pool_handle()  # of all graphs, which never run at once
        with torch.cuda.graph(self.graph, pool=self.run.memory, capture_error_mode="thread_local"):
            self.body()
        self.replay = self.graph.replay

    def check(self):
        """That the graph does what its operations do one by one with the same random numbers."""
        if self.replay == self.body:
            return
        read = []
        self.prepare()
        for step in (self.body, self.replay):
            torch.cuda.manual_seed(1)
            step()
            read.append({k: self.figures[k].item() for k in ("velocity", "coverage")})
        by_hand, replayed = read
        if any(abs(replayed[k] - by_hand[k]) > 0.02 * by_hand[k] + 1e-3 for k in by_hand):
            raise RuntimeError(f"{self.task.name}: the CUDA graph computes {replayed}, its operations {by_hand}")

    def __call__(self):
        self.prepare()
        self.replay()
        return {k: value.clone() for k, value in self.figures.items()}


class Diverged(Exception):
    """A loss or a weight is not finite any more: the run goes on from its last checkpoint with half the learning rate."""


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--run", default="run")
    ap.add_argument("--recipe", default=os.path.join(HERE, "recipe.json"))
    ap.add_argument("--init", help="what a new run starts from, with new optimisers: a model directory, or a file of "
                                   "export.py --checkpoint, which has the heads too")
    ap.add_argument("--stage", help="name of the stage that a new run starts with")
    ap.add_argument("--vae", help="folder of train_vae.py (default: the shipped autoencoder)")
    ap.add_argument("--minutes", type=float, help="stop after this time; the run goes on with the next call")
    ap.add_argument("--write-every", type=float, default=3, help="minutes between checkpoints")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--workers", type=int, default=1, help="processes that draw scenes, or on a GPU think them up")
    ap.add_argument("--no-graphs", action="store_true", help="launch every operation of a step by itself on a GPU")
    ap.add_argument("--pool", type=int, help="draw on the device, from so many scenes (default on a GPU: 131072)")
    ap.add_argument("--threads", type=int, help="split each batch over this many threads (default: the CPU's cores)")
    ap.add_argument("--micro", type=int, default=2048, help="tokens per micro-batch with several threads")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    args.started = time.time()
    if args.threads is None:
        args.threads = len(os.sched_getaffinity(0)) if args.device == "cpu" else 1
    if args.device == "cpu":
        torch.set_num_threads(1 if args.threads > 1 else len(os.sched_getaffinity(0)))
    if args.pool is None:
        args.pool = 0 if args.device == "cpu" else 1 << 17
    os.makedirs(args.run, exist_ok=True)
    with open(args.recipe) as f:
        recipe = json.load(f)
    stages, args.sizes = recipe["stages"], recipe.get("transformer", {})
    names = [stage["name"] for stage in stages]
    if args.stage and args.stage not in names:
        ap.error(f"--stage: the recipe has {', '.join(names)}, and no {args.stage}")

    def begin():
        run = Run(args)
        if args.stage and run.steps == 0:
            run.stage = names.index(args.stage)
        return run

    run = begin()
    count = lambda part: sum(p.numel() for p in run.net[part].parameters()) / 1e6
    print(f"transformer {count('transformer'):.2f} M parameters, text encoder {count('text'):.2f} M; stage {run.stage} of "
          f"{len(stages)}, step {run.steps}", flush=True)
    rate = 1.0
    while run.stage < len(stages):
        try:
            if not run.train_stage(stages[run.stage]):
                break
        except Diverged as e:
            rate /= 2
            if rate < 1 / 16:
                raise
            print(f"not finite at {e}: goes on from the last checkpoint with {rate} of the learning rate", flush=True)
            run = begin()
            run.rate = rate
            run.log(diverged=str(e), rate=rate)
    print("seen:", run.seen, flush=True)


if __name__ == "__main__":
    main()
