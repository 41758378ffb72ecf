"""Make the EMA weights' guidance embedder a smooth function of guidance.

    python -m train.smooth_guidance --run run     for a run that is exported before its guidance stage has ended, at which
                                            train.py does it

FLUX scales guidance by 1000 before the sinusoids, most of which then turn many times from one guidance weight to the next.
What training leaves in them is noise between the weights it has shown, and at exactly 1, which data stages show alone, another
embedding than the distillation's: velocities there were worse than none. This fits a cubic to the embedding where guidance was
taught, through its value at 3.5, and puts it into the embedder's two layers, the first of which reads only the slow sinusoids.
"""
import argparse
import os

import torch
import torch.nn.functional as F

from net.model import TimestepEmbedding, sinusoid, sinusoid_frequencies

PREFIX = "transformer.time_text_embed.guidance_embedder."
DEFAULT, LOWEST, HIGHEST = 3.5, 1.45, 6.0  # the weight that is kept exactly; the range in which enough pictures were seen
DEGREE = 3


def powers(guidance):
    return torch.stack([((guidance.double() - DEFAULT) / 2.5)**k for k in range(DEGREE + 1)], 1)


@torch.no_grad()
def smooth(embedder):
    """Replaces the weights of a TimestepEmbedding; returns the relative change of its output at the default."""
    embed = lambda guidance: embedder(sinusoid(guidance * 1000)).double()
    seen = torch.linspace(LOWEST, HIGHEST, 4000)
    guidance = torch.cat([seen, torch.tensor([DEFAULT])])
    often = torch.exp(-((seen - 3) / 1.6)**2) + 0.02  # about as often as training shows a weight
    root = torch.cat([often, torch.tensor([3e4])]).double().sqrt()[:, None]
    cubic = torch.linalg.lstsq(powers(guidance) * root, embed(guidance) * root).solution
    before = embed(guidance[-1:])

    inner, width = embedder.linear_1.weight.shape
    slow = (sinusoid_frequencies(width // 2, torch.device("cpu")) * HIGHEST * 1000 < 8).float().repeat(2)
    generator = torch.Generator().manual_seed(0)
    embedder.linear_1.weight.copy_((0.6 * slow * torch.randn(inner, width, generator=generator)).half())  # exact in float16
    embedder.linear_1.bias.copy_(torch.randn(inner, generator=generator).half())
    grid = torch.linspace(0.8, HIGHEST + 1, 3000)
    hidden = F.silu(embedder.linear_1(sinusoid(grid * 1000)))
    design = torch.cat([hidden, torch.ones(len(grid), 1)], 1).double()
    solution = torch.linalg.solve(design.T @ design + 1e-5 * torch.eye(inner + 1), design.T @ (powers(grid) @ cubic))
    embedder.linear_2.weight.copy_(solution[:-1].T.half())
    embedder.linear_2.bias.copy_(solution[-1].half())
    return ((embed(guidance[-1:]) - before).norm() / before.norm()).item()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--run", default="run")
    args = ap.parse_args()
    path = os.path.join(args.run, "last.pt")
    run = torch.load(path, map_location="cpu")
    embedder = TimestepEmbedding(256, len(run["ema"][PREFIX + "linear_1.bias"]))
    state = embedder.state_dict()
    embedder.load_state_dict({k: run["ema"][PREFIX + k] for k in state})
    print(f"change at {DEFAULT}: {smooth(embedder):.2%}")
    run["ema"].update({PREFIX + k: v for k, v in embedder.state_dict().items()})
    torch.save(run, path + ".tmp")
    os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()
