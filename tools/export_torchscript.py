#!/usr/bin/env python3
"""Exports weights from PyTorch as the TorchScript archive that jit-flux reads.

    python tools/export_torchscript.py diffusion_pytorch_model.safetensors transformer.pt --dtype bfloat16
    python tools/export_torchscript.py FLUX.1-dev/transformer transformer.pt

or, from a program that has the module:

    from export_torchscript import export_torchscript
    export_torchscript(pipe.transformer, "transformer.pt", dtype=torch.bfloat16)

The archive holds parameters and buffers under their own names and no code: a tree of empty modules.
All weights pass through memory; `jit-flux convert` does the same without Python, tensor by tensor.
Needs PyTorch, and safetensors to read such files.
"""

import argparse
import json
import os
import pathlib
import tempfile

import torch
from torch import nn


def container(tensors):
    """A module tree whose state dict is `tensors`; what is no floating point number is a buffer."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        if tensor.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(leaf, tensor)
    return root.eval()


def export_torchscript(weights, path, dtype=None):
    """Writes a module or a state dict; `dtype` converts the floating point tensors."""
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    prepared = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        # Views, and tensors that share memory, would drag whole storages along.
        prepared[name] = tensor.contiguous().clone() if is_view(tensor) else tensor
    scripted = torch.jit.script(container(prepared))
    # Beside the output and renamed: whoever reads the path sees a whole file.
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        temporary = os.path.join(scratch, "weights.pt")
        scripted.save(temporary)
        os.replace(temporary, path)


def is_view(tensor):
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return not (tensor.is_contiguous() and whole)


def load_tensors(path):
    """A .safetensors file, a directory of shards with an index, or a state dict of torch.save."""
    path = pathlib.Path(path)
    if path.is_dir():
        indices = list(path.glob("*.safetensors.index.json"))
        files = list(path.glob("*.safetensors"))
        if len(indices) == 1:
            shards = set(json.loads(indices[0].read_text())["weight_map"].values())
            files = [path / shard for shard in sorted(shards)]
        elif len(files) != 1:
            raise SystemExit(f"{path} must hold one .safetensors file or one index")
    else:
        files = [path]
    tensors = {}
    for file in files:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors.update(load_file(file))
        else:
            tensors.update(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", help="safetensors file, directory of shards, or torch.save state dict")
    parser.add_argument("output", help="archive to write (.pt)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype) if args.dtype else None
    export_torchscript(load_tensors(args.input), args.output, dtype)


if __name__ == "__main__":
    main()
