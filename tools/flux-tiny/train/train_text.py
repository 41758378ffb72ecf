"""Teach the text encoder what captions say, before any picture is drawn.

    python -m train.train_text --out run

Every word of a caption is asked for the object that it describes (shape, colour, fill, size, where, how large), every
word and the pooled vector for layout, number and background. The heads are thrown away. The transformer then starts
from sentences that are understood; training both at once spends most pictures on reading. Safe to interrupt: the
encoder is written every minute, --resume goes on with it.
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from data import labels as L
from data import scene as S
from net.model import TextEncoder
from net.config import TEXT_CONFIG
from train.train import TEXT_FILE as FILE



class Heads(nn.Module):
    def __init__(self, dim, pooled_dim):
        super().__init__()
        self.word = nn.Linear(dim, sum(L.WORD_CLASSES.values()) + L.PLACE)
        self.caption = nn.Linear(dim, sum(L.CAPTION_CLASSES.values()))
        self.pooled = nn.Linear(pooled_dim, sum(L.CAPTION_CLASSES.values()))
        self.occurs = nn.Linear(pooled_dim, sum(L.WORD_CLASSES.values()))


def losses(encoder, heads, ids, words, captions):
    pooled, sequence = encoder(ids)
    says = words[..., 0] >= 0
    parts = heads.word(sequence)[says].split([*L.WORD_CLASSES.values(), L.PLACE], -1)
    truth = words[says]
    loss = {name: F.cross_entropy(parts[k], truth[:, k].long()) for k, name in enumerate(L.WORD_CLASSES)}
    single = truth[:, 4] >= 0
    loss["place"] = 20 * F.mse_loss(parts[-1][single], truth[single][:, 4:])
    real = ids != encoder.pad_id
    for where, out, target in (("word", heads.caption(sequence)[real], captions[:, None].expand(-1, ids.shape[1], -1)[real]),
                               ("pooled", heads.pooled(pooled), captions)):
        for k, (name, part) in enumerate(zip(L.CAPTION_CLASSES, out.split(list(L.CAPTION_CLASSES.values()), -1))):
            loss[f"{where} {name}"] = 0.5 * F.cross_entropy(part, target[:, k], ignore_index=-1)
    occurs = [torch.zeros(len(ids), n) for n in L.WORD_CLASSES.values()]
    for k, part in enumerate(occurs):
        rows, _ = says.nonzero(as_tuple=True)
        part[rows, words[says][:, k].long()] = 1
    loss["pooled occurs"] = 4 * F.binary_cross_entropy_with_logits(heads.occurs(pooled), torch.cat(occurs, -1))
    return loss


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default="run")
    ap.add_argument("--captions", type=int, default=400_000)
    ap.add_argument("--batch", type=int, default=256)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--resume", action="store_true")
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, FILE)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, 11])
    encoder = TextEncoder(**TEXT_CONFIG)
    if args.resume and os.path.exists(path):
        encoder.load_state_dict(load_file(path))
    heads = Heads(TEXT_CONFIG["dim"], TEXT_CONFIG["pooled_dim"])
    opt = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)

    def write():
        save_file(encoder.state_dict(), path + ".tmp")
        os.replace(path + ".tmp", path)

    steps, start, last = args.captions // args.batch, time.time(), time.time()
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 50, 1.02 - step / steps)
        scenes = [S.split_scene(rng, evaluation=False) for _ in range(args.batch)]
        words, captions = (torch.from_numpy(np.stack(part)) for part in zip(*map(L.word_labels, scenes)))
        loss = losses(encoder, heads, torch.tensor([S.encode(S.caption(s)) for s in scenes]), words, captions)
        opt.zero_grad()
        sum(loss.values()).backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        opt.step()
        if step % 100 == 99 or step == steps - 1:
            print(f"{(step + 1) * args.batch} captions, {time.time() - start:.0f} s, "
                  + ", ".join(f"{k} {v.item():.3f}" for k, v in loss.items()), flush=True)
        if time.time() - last > 60:
            write()
            last = time.time()
    write()


if __name__ == "__main__":
    main()
