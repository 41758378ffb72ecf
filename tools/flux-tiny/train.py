"""Train flux-tiny: a rectified-flow text-to-image model with the FLUX.1 architecture, on procedural scenes.

    python train.py --run run                      every stage of recipe.json, from where the run stands
    python train.py --run run --device cuda --workers 14

Safe to kill at any time: the run is written every few minutes and the same command goes on with it. Stages are counted
in pictures, so a run is the same on every machine but for rounding. What was seen, and every loss, is appended to
run/log.jsonl (curves.py draws it). On CPUs with AVX-512 and on GPUs the products are in bfloat16, else in float32.

Beside the plain recipe, because a small model has few pictures to learn from:
- The initial weights are open (start_open).
- Layout loss. A head on a middle block is asked what every token shows (labels.py): shape, colour, fill, size, offset
  from the object's centre; another one on the last block, which 4x4 points of the token an object covers. A shape is a
  few edge pixels to the velocity loss, and one class in eight to the first of these. The heads are not exported.
- The text encoder can read before training starts (train_text.py).
"""
import argparse
import copy
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import labels as L
import model
import scene as S
from config import CONFIG, PROMPTS, TEXT_CONFIG
from model import FluxTransformer2DModel, TextEncoder, image_ids, pack
from sampling import VAE, sample, sheet, shifted, weights

HERE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.normpath(os.path.join(HERE, "..", "..", "models", "flux-tiny"))
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


class Scenes(torch.utils.data.IterableDataset):
    """Endless batches of (uint8 pictures, token ids, token labels with the coverage behind them, tokens).

    With `keep`, a picture is the row of the kept tokens' patches, and nothing else of it is drawn.
    """

    def __init__(self, size, batch, seed, keep=0, layouts=None):
        self.size, self.batch, self.seed, self.keep, self.layouts = size, batch, seed, keep, layouts

    def scene(self, rng):
        while True:
            scene = S.split_scene(rng, evaluation=False)
            if self.layouts is None or scene["layout"] in self.layouts:
                return scene

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([*self.seed, info.id if info else 0])
        if info:
            torch.set_num_threads(1)
        side = self.size // 8
        tokens = np.arange(side * side)
        while True:
            scenes = [self.scene(rng) for _ in range(self.batch)]
            if self.keep:
                tokens = some_tokens(rng, side, self.keep)
                x = np.stack([S.render_patches(s, self.size, tokens) for s in scenes])
            else:
                x = np.stack([S.render(s, self.size) for s in scenes])
            x = torch.from_numpy((x * 255 + 0.5).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()
            labels = np.stack([np.concatenate([L.token_labels(s, side, tokens), L.token_coverage(s, side, tokens)], -1)
                               for s in scenes])
            yield x, torch.tensor([S.encode(S.caption(s)) for s in scenes]), torch.from_numpy(labels), torch.from_numpy(tokens)


class Task:
    """Pictures of one size: {"size", "batch", "shift"}, and perhaps "keep", the number of tokens trained on, and
    "layouts", the only ones drawn.
    """

    def __init__(self, spec, seed, workers, device):
        self.size, keep = spec["size"], spec.get("keep", 0)
        self.shift = spec["shift"]  # of the logit-normal sigmas: the more tokens, the more noise hides as much
        self.name = f"{self.size}px" + (f"/{keep}" if keep else "")
        data = Scenes(self.size, spec["batch"], seed, keep, spec.get("layouts"))
        self.data = iter(torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers,
                                                     prefetch_factor=4 if workers else None))
        self.img_ids = image_ids(self.size // 8, self.size // 8, device)

    def sigmas(self, n):
        """Stratified over the batch, in random order."""
        u = (torch.randperm(n) + torch.rand(n)) / n
        return shifted(torch.sigmoid(torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))), self.shift).float()


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


def mean(values):
    """0 for none: a few random tokens may all be background."""
    return values.sum() / max(values.numel(), 1)


def layout_losses(out, labels):
    """Cross entropies and a squared error by name, and the share of object tokens whose shape is told."""
    parts = out.float().split([*L.TOKEN_CLASSES.values(), L.GEOMETRY], -1)
    near = labels[..., 0] > 0
    losses = {}
    ask = lambda k, where: mean(F.cross_entropy(parts[k][where], labels[..., k][where].long(), reduction="none"))
    for k, name in enumerate(L.TOKEN_CLASSES):
        losses[name] = ask(k, near)
        if name in ("shape", "covered"):  # most tokens are background: weighed apart, or the shapes would not count
            losses[f"{name} of background"] = ask(k, ~near)
    losses["geometry"] = mean((parts[-1][near] - labels[near][:, len(L.TOKEN_CLASSES):]).pow(2))
    told = mean((parts[0][near].argmax(-1) == labels[..., 0][near]).float())
    return losses, told


def coverage_loss(out, covered):
    """Half from the tokens on an edge, half from all others."""
    loss = F.binary_cross_entropy_with_logits(out.float(), covered, reduction="none").mean(-1)
    share = covered.mean(-1)
    edge = (share > 0) & (share < 1)
    return 0.5 * (mean(loss[edge]) + mean(loss[~edge]))


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


def build(run, device):
    net = nn.ModuleDict({"transformer": FluxTransformer2DModel(**CONFIG), "text": TextEncoder(**TEXT_CONFIG)})
    net["transformer"].init_weights()
    start_open(net["transformer"])
    text = os.path.join(run, TEXT_FILE)
    if os.path.exists(text):
        net["text"].load_state_dict(load_file(text))
    else:
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
                    self.state[p].setdefault("momentum", torch.zeros_like(p))
                grads, moments = [p.grad for p in params], [self.state[p]["momentum"] for p in params]
                torch._foreach_lerp_(moments, grads, 1 - momentum)
                update = self.orthogonalise(torch.stack(grads).lerp_(torch.stack(moments), momentum))
                torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
                torch._foreach_add_(params, list(update.unbind()), alpha=-0.2 * lr * max(shape) ** 0.5)


def optimizers(net, threads, dtype):
    """Muon for the blocks' matrices, AdamW for the rest; (optimizer, factor of the learning rate) each.

    Muon bears high rates; at the same one AdamW kept the outputs from settling.
    """
    blocks = [p for n, p in net["transformer"].named_parameters() if p.ndim == 2 and "blocks" in n]
    rest = [p for n, p in net["transformer"].named_parameters() if not (p.ndim == 2 and "blocks" in n)]
    muon = [Muon(blocks[i::threads], dtype) for i in range(threads)]
    adam = lambda parameters: torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    return [*((o, 1.0) for o in muon), (adam([*rest, *net["layout"].parameters(), *net["coverage"].parameters()]), 0.3),
            (adam(net["text"].parameters()), 0.1)]


def attend_fp32(q, k, v):
    """Attention in fp32 under bf16 autocast: on CPUs its backward pass is twice as fast for few tokens."""
    if q.shape[2] > 512:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


# ----------------------------------------------------------------------------------------------------- training


class Run:
    """A training run in a folder: weights, EMA, optimizer states, position in the recipe, log."""

    def __init__(self, args):
        self.args, self.device = args, args.device
        if self.device == "cpu":
            model.attend = attend_fp32
        has_bf16 = self.device != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability()
        self.cast = lambda: torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=has_bf16)
        self.vae = VAE.from_run(args.vae, self.device) if args.vae else VAE.from_model(SHIPPED, self.device)
        torch.manual_seed(args.seed)
        self.net = build(args.run, self.device)
        if args.init and args.init.endswith(".safetensors"):
            self.net.load_state_dict({k: v.float() for k, v in load_file(args.init).items()})
        elif args.init:
            for part, name in (("transformer", "transformer.pt"), ("text", "text_encoder.pt")):
                self.net[part].load_state_dict(weights(args.init, name))
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        blocks = self.net["transformer"].single_transformer_blocks
        self.hidden, self.last = Hidden(blocks[LAYOUT_BLOCK]), Hidden(blocks[COVERAGE_BLOCK])
        self.opts = optimizers(self.net, args.threads, torch.bfloat16 if has_bf16 else torch.float32)
        self.params = list(self.net.parameters())
        self.stage, self.stage_pictures, self.steps, self.seconds, self.seen = 0, 0, 0, 0.0, {}
        self.teacher = None
        self.path = os.path.join(args.run, "last.pt")
        if os.path.exists(self.path):
            self.restore()
        self.pool = ThreadPoolExecutor(args.threads) if args.threads > 1 else None
        self.txt_ids = torch.zeros(S.MAX_TOKENS, 3, device=self.device)
        self.null = torch.tensor(S.encode(""), device=self.device)

    def restore(self):
        ck = torch.load(self.path, map_location=self.device)
        self.net.load_state_dict(ck["net"])
        self.ema.load_state_dict(ck["ema"])
        if len(ck["opts"]) == len(self.opts):  # else another number of threads: Muon's momentum starts anew
            for (o, _), s in zip(self.opts, ck["opts"]):
                o.load_state_dict(s)
        for key in ("stage", "stage_pictures", "steps", "seconds", "seen"):
            setattr(self, key, ck[key])
        torch.manual_seed(self.steps)
        if ck["teacher"] is not None:
            self.teach(ck["teacher"])

    def teach(self, state=None):
        """Guidance distillation against the EMA weights at the start of its stage."""
        self.teacher = copy.deepcopy(self.ema)
        if state is not None:
            self.teacher.load_state_dict(state)

    def write(self):
        torch.save({"net": self.net.state_dict(), "ema": self.ema.state_dict(), "opts": [o.state_dict() for o, _ in self.opts],
                    "teacher": self.teacher and self.teacher.state_dict(), "stage": self.stage,
                    "stage_pictures": self.stage_pictures, "steps": self.steps, "seconds": self.seconds,
                    "seen": self.seen}, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)

    def log(self, **entry):
        with open(os.path.join(self.args.run, "log.jsonl"), "a") as f:
            f.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "steps": self.steps,
                                "seconds": round(self.seconds), **entry}) + "\n")

    def samples(self, size):
        with self.cast():
            latent = sample(self.ema["transformer"], self.ema["text"], PROMPTS, size, 20, shift=2.0, device=self.device)
        sheet(self.vae.decode(latent.float())).save(os.path.join(self.args.run, f"{self.steps:06d}-{size}px.png"))

    def micro_batch(self, layout_weight, x0, noise, sigma, guidance, ids, labels, img_ids, weight):
        xt = x0 + sigma[:, None, None] * (noise - x0)
        target = noise - x0
        with self.cast():
            if self.teacher is not None:
                with torch.no_grad():
                    pooled, seq = self.teacher["text"](torch.cat([ids, self.null.expand_as(ids)]))
                    both = lambda t: torch.cat([t, t])
                    plain = torch.ones_like(guidance)  # guided weights may be the teacher of a later stage
                    c, u = self.teacher["transformer"](both(xt), seq, pooled, both(sigma), img_ids, self.txt_ids,
                                                       both(plain)).float().chunk(2)
                difference = (guidance - 1)[:, None, None] * (c - u)
                target = c + difference  # and not data + difference: the noise of the data would hide what is to be learnt
            pooled, seq = self.net["text"](ids)
            v = self.net["transformer"](xt, seq, pooled, sigma, img_ids, self.txt_ids, guidance)
            n = self.txt_ids.shape[0]
            out = self.net["layout"](self.hidden.take()[:, n:])
            covered = self.net["coverage"](self.last.take()[:, n:])
        layout, told = layout_losses(out, labels[..., :LABELS])
        layout["coverage"] = coverage_loss(covered, labels[..., LABELS:])
        velocity = (v.float() - target).pow(2).mean()
        loss = (velocity + layout_weight * (sum(layout.values()) + 4 * layout["coverage"])) * weight
        figures = {"velocity": velocity.item(), **({} if self.teacher is None else {"difference": difference.pow(2).mean().item()}),
                   "told": told.item(), **{k: t.item() for k, t in layout.items()}}
        return {k: t * weight for k, t in figures.items()}, torch.autograd.grad(loss, self.params)

    def step(self, task, stage, lr):
        """One step; the weighted figures of its micro-batches."""
        dev, args = self.device, self.args
        for o, factor in self.opts:
            for group in o.param_groups:
                group["lr"] = lr * factor
        pictures, ids, labels, tokens = next(task.data)
        x0 = pack(self.vae.encode(pictures.to(dev).float() / 127.5 - 1))
        ids = torch.where((torch.rand(len(x0), 1) < stage.get("drop", 0.1)).to(dev), self.null, ids.to(dev))
        labels, img_ids = labels.to(dev), task.img_ids[tokens.to(dev)]
        n = len(x0)
        batch = (x0, torch.randn_like(x0), task.sigmas(n).to(dev), 1 + 5 * torch.rand(n, device=dev), ids, labels)
        # Micro-batches of a few thousand tokens keep a thread's activations in the caches.
        parts = max(args.threads, round(n * x0.shape[1] / args.micro)) if self.pool else 1
        chunks = list(zip(*(t.chunk(parts) for t in batch)))
        run = self.pool.map if self.pool else map
        results = list(run(lambda c: self.micro_batch(stage["layout"], *c, img_ids, len(c[0]) / n), chunks))
        for p, *grads in zip(self.params, *(r[1] for r in results)):
            p.grad = torch.stack(grads).sum(0) if len(grads) > 1 else grads[0]
        nn.utils.clip_grad_norm_(self.params, 1.0)
        list(run(lambda o: o[0].step(), self.opts))
        self.steps += 1
        self.stage_pictures += n
        self.seen[task.name] = self.seen.get(task.name, 0) + n
        with torch.no_grad():
            decay = min(stage.get("ema", 0.999), (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(list(self.ema.parameters()), self.params, 1 - decay)
        return {k: sum(r[0][k] for r in results) for k in results[0][0]}

    def train_stage(self, stage):
        args = self.args
        if stage.get("guidance") and self.teacher is None:
            self.teach()
        seed = [args.seed, self.stage, self.stage_pictures]
        tasks = [Task(t, [*seed, i], args.workers, self.device) for i, t in enumerate(stage["tasks"])]
        figures = {task.name: [] for task in tasks}
        start = previous = written = time.time()
        begun, step = self.stage_pictures, 0
        while self.stage_pictures < stage["pictures"]:
            done = self.stage_pictures / stage["pictures"]
            lr = stage["lr"][0] + (stage["lr"][1] - stage["lr"][0]) * done
            task = tasks[step % len(tasks)]
            figures[task.name].append(self.step(task, stage, lr * min(1.0, (step + 1) / stage.get("warmup", 50))))
            step += 1
            now = time.time()
            self.seconds += now - previous
            previous = now
            if step % 50 == 0:
                mean = {name: {k: round(float(np.mean([f[k] for f in fs])), 4) for k in fs[0]} for name, fs in figures.items() if fs}
                rate = (self.stage_pictures - begun) / (now - start)
                self.log(stage=stage["name"], pictures=self.stage_pictures, seen=self.seen, lr=lr, rate=round(rate, 1), losses=mean)
                print(f"{stage['name']}: {self.stage_pictures} pictures, {rate:.1f}/s, lr {lr:.1e}; "
                      + "; ".join(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in m.items()) for name, m in mean.items()), flush=True)
                figures = {task.name: [] for task in tasks}
            if now - written > 60 * args.write_every:
                self.write()
                written = now
            if args.minutes and now - args.started > 60 * args.minutes:
                self.write()
                return False
        self.stage, self.stage_pictures, self.teacher = self.stage + 1, 0, None
        self.write()
        for size in sorted({task.size for task in tasks if task.size <= 256}):  # 512 px would take minutes of a CPU
            self.samples(size)
        return True


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
    ap.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    ap.add_argument("--threads", type=int, help="split each batch over this many threads (default: the CPU's cores)")
    ap.add_argument("--micro", type=int, default=2048, help="tokens per micro-batch with several threads")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    args.started = time.time()
    if args.threads is None:
        args.threads = len(os.sched_getaffinity(0)) if args.device == "cpu" else 1
    if args.device == "cpu":
        torch.set_num_threads(1 if args.threads > 1 else len(os.sched_getaffinity(0)))
    os.makedirs(args.run, exist_ok=True)
    with open(args.recipe) as f:
        stages = json.load(f)["stages"]
    run = Run(args)
    if args.stage and run.steps == 0:
        run.stage = [stage["name"] for stage in stages].index(args.stage)
    count = lambda part: sum(p.numel() for p in run.net[part].parameters()) / 1e6
    print(f"transformer {count('transformer'):.2f} M parameters, text encoder {count('text'):.2f} M; stage {run.stage} of "
          f"{len(stages)}, step {run.steps}", flush=True)
    while run.stage < len(stages) and run.train_stage(stages[run.stage]):
        pass
    print("seen:", run.seen, flush=True)


if __name__ == "__main__":
    main()
