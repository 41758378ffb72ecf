"""The Just-in-Time sampler in eager PyTorch, step by step as the released FLUX pipeline does it.

Written by us from a description of that pipeline (arXiv 2603.10744 and its code), including what it spends: the
distances to all anchors are rebuilt at every interpolation, the blur is a full two-dimensional convolution, the state
lives in the model's type. Noise levels, first anchors and noise come from the caller, so that both sides of a
comparison walk the same path.
"""

import math
from functools import lru_cache
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_STRENGTH = 0.4
RELAXATION = 3


def gaussian_blur(field: Tensor, density: float) -> Tensor:
    """Blurs [B, C, rows, columns]; the sparser the anchors, the wider."""
    sigma = min(max(BLUR_STRENGTH / math.sqrt(density), 1.0), 10.0)
    radius = math.ceil(3 * sigma)
    offsets = torch.linspace(-radius, radius, 2 * radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).to(field.dtype)
    channels = field.shape[1]
    kernel = torch.outer(weights, weights).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(field, [radius] * 4, mode="reflect"), kernel, groups=channels)


@lru_cache(maxsize=4)
def coordinates(rows: int, columns: int) -> Tensor:
    """(row, column) of every token, [N, 2] float32."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([row.flatten(), column.flatten()], dim=-1).float()


def interpolate(values: Tensor, anchors: Tensor, rows: int, columns: int) -> Tensor:
    """From anchors [B, M, C] to all tokens [B, N, C]: nearest anchor, blurred everywhere but at anchors."""
    batch, _, channels = values.shape
    tokens = rows * columns
    places = coordinates(rows, columns)
    nearest = torch.cdist(places, places[anchors]).argmin(dim=-1)
    field = values[:, nearest].reshape(batch, rows, columns, channels).permute(0, 3, 1, 2)
    blurred = gaussian_blur(field, len(anchors) / tokens)
    known = torch.zeros(tokens, dtype=values.dtype)
    known[anchors] = 1.0
    known = known.reshape(1, 1, rows, columns)
    mixed = field * known + blurred * (1.0 - known)
    return mixed.permute(0, 2, 3, 1).reshape(batch, tokens, channels)


def importance(velocity: Tensor, rows: int, columns: int) -> Tensor:
    """Local variance of the velocity over 3x3 windows, averaged over channels: [N]. One image."""
    field = velocity.reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(field, 3, stride=1, padding=1)
    variance = F.avg_pool2d(field**2, 3, stride=1, padding=1) - mean**2
    return variance.mean(dim=1).flatten()


def densify(anchors: Tensor, count: int, score: Tensor) -> Tensor:
    """Appends the inactive tokens of highest score until there are `count`."""
    inactive = torch.ones(len(score), dtype=torch.bool)
    inactive[anchors] = False
    candidates = torch.arange(len(score))[inactive]
    missing = count - len(anchors)
    if missing <= 0:
        return anchors
    if missing >= len(candidates):
        return torch.cat([anchors, candidates])
    return torch.cat([anchors, candidates[torch.topk(score[candidates], missing).indices]])


def sample(
    velocity_at: Callable[[Tensor, Tensor, float], Tensor],
    latents: Tensor,
    noise: Tensor,
    anchors: Tensor,
    sigmas: list[float],
    tokens_per_step: list[int],
    grid: tuple[int, int],
) -> Tensor:
    """Runs the whole sampler on one image.

    velocity_at(tokens [1, M, C], anchors [M], sigma) is the model; `anchors` are those of the first stage, and a step
    whose `tokens_per_step` exceeds the number before begins a stage. Returns the final latents [1, N, C].
    """
    rows, columns = grid
    tokens = rows * columns
    state = latents.clone()
    levels = [*sigmas, 0.0]
    velocity = previous = None
    for step, count in enumerate(tokens_per_step):
        sigma = levels[step]
        if count > len(anchors):
            grown = densify(anchors, count, importance(velocity, rows, columns))
            new = grown[~torch.isin(grown, anchors)]
            clean = (previous.float() - velocity.float() * levels[step - 1]).to(state.dtype)
            target = interpolate(clean[:, anchors], anchors, rows, columns)[:, new] * (1 - sigma)
            target = target + noise[:, new] * sigma
            state[:, new] = (1 - 1 / RELAXATION) * state[:, new] + (1 / RELAXATION) * target
            anchors = grown
        at_anchors = velocity_at(state[:, anchors], anchors, sigma)
        if len(anchors) < tokens:
            velocity = interpolate(at_anchors, anchors, rows, columns)
        else:
            velocity = torch.zeros_like(state)
            velocity[:, anchors] = at_anchors
        previous = state.clone()
        state = state + velocity * (levels[step + 1] - sigma)
    return state
