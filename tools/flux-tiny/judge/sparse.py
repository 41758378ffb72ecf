"""How much does the velocity at some tokens change when the others are absent?

    python -m judge.sparse --model ../../models/flux-tiny --size 256

JiT evaluates the transformer on a part of the tokens. For rendered scenes at several noise levels, `change` is the root
mean square of the difference between the velocity with a part and with all tokens, at the kept tokens, relative to the
latter's; `error` is that of the difference to the true velocity, noise - data.
"""
import argparse
import json

import torch

from data import scene as S
from judge.evaluate import scenes_of
from net.model import image_ids, pack
from net.sample import MODEL, FluxTiny
from net.sampling import picture_tensor


def kept_tokens(side, ratio, generator):
    """A random permutation of every 2x2 cell's tokens, cut at the ratio: spread like JiT's initial anchors."""
    order = torch.rand(side // 2, side // 2, 4, generator=generator).argsort(-1).view(side // 2, side // 2, 2, 2)
    rank = order.permute(0, 2, 1, 3).reshape(-1).float() + torch.rand(side * side, generator=generator)
    return rank.argsort()[: round(ratio * side * side)].sort().values


@torch.no_grad()
def measure(model, size, ratios, sigmas, count, seed):
    generator = torch.Generator().manual_seed(seed)
    scenes = scenes_of(seed, count)
    x0 = pack(model.vae.encode(picture_tensor([S.render(s, size) for s in scenes])))
    noise = torch.randn(x0.shape, generator=generator)
    pooled, seq = model.text_encoder(torch.tensor([S.encode(S.caption(s)) for s in scenes]))
    ids, txt_ids = image_ids(size // 8, size // 8), torch.zeros(S.MAX_TOKENS, 3)
    rms = lambda t: t.pow(2).mean().sqrt().item()
    rows = []
    for sigma in sigmas:
        velocity = lambda x, ids: model.transformer(x, seq, pooled, torch.full((count,), sigma), ids, txt_ids, torch.ones(count))
        xt, truth = x0 + sigma * (noise - x0), noise - x0
        full = velocity(xt, ids)
        for ratio in ratios:
            kept = kept_tokens(size // 8, ratio, generator)
            sparse = velocity(xt[:, kept], ids[kept])
            rows.append({"sigma": sigma, "ratio": ratio, "change": rms(sparse - full[:, kept]) / rms(full[:, kept]),
                         "error": rms(sparse - truth[:, kept]), "full error": rms(full[:, kept] - truth[:, kept])})
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default=MODEL)
    ap.add_argument("--size", type=int, default=256)
    ap.add_argument("--ratios", type=float, nargs="+", default=[0.32, 0.62])
    ap.add_argument("--sigmas", type=float, nargs="+", default=[0.95, 0.85, 0.7, 0.5])
    ap.add_argument("--count", type=int, default=16)
    ap.add_argument("--seed", type=int, default=4321)
    ap.add_argument("--json", help="write the rows to this file")
    args = ap.parse_args()
    rows = measure(FluxTiny(args.model), args.size, args.ratios, args.sigmas, args.count, args.seed)
    print("sigma  tokens  change  error sparse  error full")
    for r in rows:
        print(f"{r['sigma']:5.2f}  {r['ratio']:6.0%}  {r['change']:6.1%}  {r['error']:12.3f}  {r['full error']:10.3f}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"size": args.size, "count": args.count, "rows": rows}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
