"""The FLUX transformer in eager PyTorch: what Python users get without compiling anything.

Written against torch alone, with the mathematics, the parameter names and the order of operations of diffusers'
FluxTransformer2DModel, so that the time of one stands for the time of the other. Nothing is tuned: separate q, k and v
projections, norms and rotations as torch composes them, `scaled_dot_product_attention`, modulation recomputed in every
step.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

EPSILON = 1e-6
ROPE_THETA = 10000.0
SINUSOID_WIDTH = 256


@dataclass(frozen=True)
class FluxShape:
    """Architecture, by the names of our own `FluxConfig`."""

    doubleBlocks: int
    singleBlocks: int
    heads: int
    headDim: int
    hiddenSize: int
    inChannels: int
    outChannels: int
    textDim: int
    pooledDim: int
    mlpRatio: int
    guidance: bool
    ropeAxes: tuple[int, int, int]


def sinusoid(value: Tensor) -> Tensor:
    """[B] -> [B, 256] float32: cosines, then sines."""
    half = SINUSOID_WIDTH // 2
    places = torch.arange(half, dtype=torch.float32, device=value.device)
    frequencies = torch.exp(-math.log(10000.0) * places / half)
    angles = value.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rope_tables(positions: Tensor, axes: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions [S, 3]: two float32 tensors [S, headDim], every value twice."""
    angles = []
    for axis, width in enumerate(axes):
        pairs = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device)
        frequencies = ROPE_THETA ** -(pairs / width)
        angles.append(torch.outer(positions[:, axis].double(), frequencies))
    table = torch.cat(angles, dim=-1).repeat_interleave(2, dim=-1)
    return table.cos().float(), table.sin().float()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE on [B, S, heads, headDim], neighbouring pairs, in float32 whatever x is."""
    cos, sin = (table[None, :, None, :] for table in tables)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, S, heads, headDim] three times -> [B, S, heads * headDim]."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


class TwoLinears(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class Embedders(nn.Module):
    def __init__(self, shape: FluxShape):
        super().__init__()
        width = shape.hiddenSize
        self.timestep_embedder = TwoLinears(SINUSOID_WIDTH, width)
        if shape.guidance:
            self.guidance_embedder = TwoLinears(SINUSOID_WIDTH, width)
        self.text_embedder = TwoLinears(shape.pooledDim, width)

    def forward(self, time: Tensor, guidance: Tensor, pooled: Tensor) -> Tensor:
        total = self.timestep_embedder(sinusoid(time).to(pooled.dtype))
        if hasattr(self, "guidance_embedder"):
            total = total + self.guidance_embedder(sinusoid(guidance).to(pooled.dtype))
        return total + self.text_embedder(pooled)


class Modulation(nn.Module):
    """`parts` vectors [B, 1, width] of the conditioning."""

    def __init__(self, width: int, parts: int):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, conditioning: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(conditioning))[:, None].chunk(self.parts, dim=-1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


class Gelu(nn.Module):
    """Named as in diffusers' feed-forward: `net.0.proj`."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.net = nn.ModuleList([Gelu(width, hidden), nn.Identity(), nn.Linear(hidden, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class SingleAttention(nn.Module):
    def __init__(self, shape: FluxShape):
        super().__init__()
        width = shape.hiddenSize
        self.head_dim = shape.headDim
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q = nn.RMSNorm(shape.headDim, eps=EPSILON)
        self.norm_k = nn.RMSNorm(shape.headDim, eps=EPSILON)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        q = self.norm_q(self.heads(self.to_q(x)))
        k = self.norm_k(self.heads(self.to_k(x)))
        return attend(rotate(q, rope), rotate(k, rope), self.heads(self.to_v(x)))


class JointAttention(SingleAttention):
    def __init__(self, shape: FluxShape):
        super().__init__(shape)
        width = shape.hiddenSize
        self.add_q_proj = nn.Linear(width, width)
        self.add_k_proj = nn.Linear(width, width)
        self.add_v_proj = nn.Linear(width, width)
        self.norm_added_q = nn.RMSNorm(shape.headDim, eps=EPSILON)
        self.norm_added_k = nn.RMSNorm(shape.headDim, eps=EPSILON)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = nn.Linear(width, width)

    def forward(self, image: Tensor, text: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        text_q = self.norm_added_q(self.heads(self.add_q_proj(text)))
        text_k = self.norm_added_k(self.heads(self.add_k_proj(text)))
        q = torch.cat([text_q, self.norm_q(self.heads(self.to_q(image)))], dim=1)
        k = torch.cat([text_k, self.norm_k(self.heads(self.to_k(image)))], dim=1)
        v = torch.cat([self.heads(self.add_v_proj(text)), self.heads(self.to_v(image))], dim=1)
        joint = attend(rotate(q, rope), rotate(k, rope), v)
        text_out, image_out = joint.split([text.shape[1], image.shape[1]], dim=1)
        return self.to_out[0](image_out.contiguous()), self.to_add_out(text_out.contiguous())


class DoubleBlock(nn.Module):
    def __init__(self, shape: FluxShape):
        super().__init__()
        width = shape.hiddenSize
        self.norm1 = Modulation(width, 6)
        self.norm1_context = Modulation(width, 6)
        self.attn = JointAttention(shape)
        self.ff = FeedForward(width, width * shape.mlpRatio)
        self.ff_context = FeedForward(width, width * shape.mlpRatio)

    def forward(
        self, image: Tensor, text: Tensor, conditioning: Tensor, rope: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.norm1(conditioning)
        t_shift, t_scale, t_gate, t_mlp_shift, t_mlp_scale, t_mlp_gate = self.norm1_context(conditioning)
        attended, t_attended = self.attn(
            modulated(image, shift, scale), modulated(text, t_shift, t_scale), rope
        )
        image = image + gate * attended
        image = image + mlp_gate * self.ff(modulated(image, mlp_shift, mlp_scale))
        text = text + t_gate * t_attended
        text = text + t_mlp_gate * self.ff_context(modulated(text, t_mlp_shift, t_mlp_scale))
        return image, text


class SingleBlock(nn.Module):
    def __init__(self, shape: FluxShape):
        super().__init__()
        width = shape.hiddenSize
        hidden = width * shape.mlpRatio
        self.norm = Modulation(width, 3)
        self.attn = SingleAttention(shape)
        self.proj_mlp = nn.Linear(width, hidden)
        self.proj_out = nn.Linear(width + hidden, width)

    def forward(
        self, image: Tensor, text: Tensor, conditioning: Tensor, rope: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        # diffusers joins and parts the streams in every single block; so do we.
        x = torch.cat([text, image], dim=1)
        shift, scale, gate = self.norm(conditioning)
        normed = modulated(x, shift, scale)
        mlp = F.gelu(self.proj_mlp(normed), approximate="tanh")
        both = torch.cat([self.attn(normed, rope), mlp], dim=2)
        x = x + gate * self.proj_out(both)
        return x[:, text.shape[1] :], x[:, : text.shape[1]]


class FluxEager(nn.Module):
    def __init__(self, shape: FluxShape):
        super().__init__()
        width = shape.hiddenSize
        self.shape = shape
        self.time_text_embed = Embedders(shape)
        self.context_embedder = nn.Linear(shape.textDim, width)
        self.x_embedder = nn.Linear(shape.inChannels, width)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(shape) for _ in range(shape.doubleBlocks))
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(shape) for _ in range(shape.singleBlocks))
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, shape.outChannels)

    def forward(
        self, tokens: Tensor, positions: Tensor, prompt: Tensor, pooled: Tensor, sigma: Tensor, guidance: Tensor
    ) -> Tensor:
        """Velocity at the tokens.

        tokens [B, M, C], prompt [B, T, textDim] and pooled [B, pooledDim] in the model's type; positions [M, 3];
        sigma [B] in the model's type, guidance [B] float32.
        """
        image = self.x_embedder(tokens)
        # Rounded to the model's type before the multiplication, as diffusers does.
        conditioning = self.time_text_embed(
            sigma.to(image.dtype) * 1000, guidance.to(image.dtype) * 1000, pooled
        )
        text = self.context_embedder(prompt)
        # Text tokens stand at position 0.
        text_positions = positions.new_zeros(text.shape[1], 3)
        rope = rope_tables(torch.cat([text_positions, positions]), self.shape.ropeAxes)
        for block in self.transformer_blocks:
            image, text = block(image, text, conditioning, rope)
        for block in self.single_transformer_blocks:
            image, text = block(image, text, conditioning, rope)
        # Unlike everywhere else the last layer's scale comes before its shift.
        scale, shift = self.norm_out(conditioning)
        return self.proj_out(modulated(image, shift, scale))


def load_flux_eager(path: str, shape: FluxShape, dtype: torch.dtype, device: str = "cpu") -> FluxEager:
    """Reads a safetensors file with diffusers' parameter names; every name must match."""
    with torch.device("meta"):
        model = FluxEager(shape)
    state = {name: tensor.to(dtype) for name, tensor in load_file(path, device=device).items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def grid_positions(rows: int, columns: int) -> Tensor:
    """(0, row, column) of every token of a grid, [rows * columns, 3] float32."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1).float()
