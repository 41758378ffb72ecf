"""diffusers and the released JiT pipeline themselves, imported from checkouts that the caller names by path."""

import importlib
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def import_diffusers(checkout: str) -> str:
    """Puts the checkout's sources first on the path; returns the version."""
    source = Path(checkout) / "src"
    if not (source / "diffusers" / "__init__.py").is_file():
        raise FileNotFoundError(f"{checkout} has no src/diffusers: not a checkout of diffusers")
    sys.path.insert(0, str(source))
    diffusers = importlib.import_module("diffusers")
    importlib.import_module("diffusers.models.transformers.transformer_flux")
    return diffusers.__version__


def import_released_jit(checkout: str) -> str:
    """The FLUX pipeline of the released JiT code, on whichever diffusers can be imported."""
    folder = Path(checkout) / "flux"
    if not (folder / "pipeline_flux_JiT.py").is_file():
        raise FileNotFoundError(f"{checkout} has no flux/pipeline_flux_JiT.py: not a checkout of Just-in-Time")
    sys.path.insert(0, str(folder))
    importlib.import_module("pipeline_flux_JiT")
    return "flux/pipeline_flux_JiT.py"


def load_diffusers(path: str, config, dtype: torch.dtype) -> torch.nn.Module:
    """FluxTransformer2DModel on the tensors of one safetensors file."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(
            in_channels=config.inChannels,
            out_channels=config.outChannels,
            num_layers=config.doubleBlocks,
            num_single_layers=config.singleBlocks,
            attention_head_dim=config.headDim,
            num_attention_heads=config.heads,
            joint_attention_dim=config.textDim,
            pooled_projection_dim=config.pooledDim,
            guidance_embeds=config.guidance,
            axes_dims_rope=config.ropeAxes,
        )
    state = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def unpack(latents: Tensor, rows: int, columns: int) -> Tensor:
    """Tokens [B, N, 4 C] -> the latent picture [B, C, 2 rows, 2 columns] that the released pipeline takes."""
    batch, _, channels = latents.shape
    blocks = latents.reshape(batch, rows, columns, channels // 4, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, 2 * rows, 2 * columns)


def run_released_jit(model, inputs: dict, plan: dict) -> tuple[Tensor, float]:
    """One run of the released pipeline with its own preset, text encoders and decoding left out."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
    from pipeline_flux_JiT import FluxPipeline_JiT

    # Newer diffusers dropped the method that the pipeline calls first; nothing is decoded here.
    if not hasattr(FluxPipeline_JiT, "enable_vae_tiling"):
        FluxPipeline_JiT.enable_vae_tiling = lambda self: None
    # Only its number of levels matters: the pipeline derives the latent's size from it.
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        latent_channels=model.config.inChannels // 4,
    )
    pipeline = FluxPipeline_JiT(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=model.module,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.set_params(preset=plan["releasedPreset"])
    # It draws anchors and noise from the global generators.
    torch.manual_seed(plan["noiseSeed"])
    rows, columns = plan["grid"]
    started = time.perf_counter()
    result = pipeline(
        prompt_embeds=inputs["prompt"],
        pooled_prompt_embeds=inputs["pooled"],
        latents=unpack(inputs["latents"], rows, columns),
        height=rows * 16,
        width=columns * 16,
        guidance_scale=float(inputs["guidance"]),
        output_type="latent",
        return_dict=False,
    )[0]
    return result, time.perf_counter() - started
