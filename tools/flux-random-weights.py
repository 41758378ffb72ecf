"""Writes a safetensors file of random weights as fast as the disk takes it; the numbers are drawn on the GPU.

    node tools/flux-weights-spec.mjs --model flux > spec.json
    python3 tools/flux-random-weights.py spec.json /dev/shm/flux.safetensors [--device cuda] [--seed 4] [--threads 8]

spec.json names every tensor with its shape, mean and scale. FLUX.1-dev is 23.8 GB. Equal seeds give equal files, whatever
the number of threads. The last line of standard output is JSON: bytes, seconds, bytes per second. Beside the weights goes
<name>.config.json with what the tensors do not tell.
"""

import argparse
import json
import math
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import torch

# Elements per draw: large enough to keep the disk busy, small enough for a page-locked buffer per thread.
CHUNK = 1 << 26
TYPES = {"bfloat16": ("BF16", torch.bfloat16), "float32": ("F32", torch.float32)}


def header_of(spec: dict) -> tuple[bytes, list[dict]]:
    """The file's header, and where each tensor's data lies."""
    name, dtype = TYPES[spec["dtype"]]
    header, places, offset = {}, [], 0
    for tensor in spec["tensors"]:
        count = math.prod(tensor["shape"])
        size = count * dtype.itemsize
        header[tensor["name"]] = {
            "dtype": name,
            "shape": tensor["shape"],
            "data_offsets": [offset, offset + size],
        }
        places.append({**tensor, "count": count, "offset": offset})
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, places


class Writer:
    """Draws and writes chunks; every thread has a buffer and a stream of its own."""

    def __init__(self, file: int, start: int, spec: dict, device: str, seed: int):
        self.file = file
        self.start = start
        self.dtype = TYPES[spec["dtype"]][1]
        self.device = torch.device(device)
        self.seed = seed
        self.free: list[tuple] = []

    def write(self, task: tuple[dict, int, int]) -> int:
        tensor, index, first = task
        count = min(CHUNK, tensor["count"] - first)
        try:
            slot = self.free.pop()
        except IndexError:
            slot = self.make_slot()
        buffer, stream = slot
        try:
            with torch.inference_mode(), torch.cuda.stream(stream):
                generator = torch.Generator(self.device)
                generator.manual_seed((self.seed << 40) + (index << 8) + first // CHUNK)
                values = torch.randn(count, generator=generator, device=self.device, dtype=torch.float32)
                values = values.mul_(tensor["scale"]).add_(tensor["mean"]).to(self.dtype)
                if self.device.type == "cuda":
                    target = buffer[:count]
                    target.copy_(values, non_blocking=True)
                    stream.synchronize()
                    values = target
                data = memoryview(values.view(torch.uint8).numpy())
            at = self.start + tensor["offset"] + first * self.dtype.itemsize
            done = 0
            while done < len(data):
                done += os.pwrite(self.file, data[done:], at + done)
            return done
        finally:
            self.free.append(slot)

    def make_slot(self) -> tuple:
        if self.device.type != "cuda":
            return None, None
        return torch.empty(CHUNK, dtype=self.dtype, pin_memory=True), torch.cuda.Stream()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec")
    parser.add_argument("out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()

    with open(options.spec, encoding="utf-8") as file:
        spec = json.load(file)
    if options.device == "cuda":
        torch.empty(1, device="cuda")
    started = time.perf_counter()
    header, places = header_of(spec)
    partial = f"{options.out}.partial"
    file = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    try:
        os.write(file, header)
        writer = Writer(file, len(header), spec, options.device, options.seed)
        tasks = [
            (tensor, index, first)
            for index, tensor in enumerate(places)
            for first in range(0, tensor["count"], CHUNK)
        ]
        with ThreadPoolExecutor(options.threads) as pool:
            written = sum(pool.map(writer.write, tasks))
    finally:
        os.close(file)
    with open(f"{os.path.splitext(options.out)[0]}.config.json", "w", encoding="utf-8") as file:
        json.dump(spec.get("config", {}), file)
    os.replace(partial, options.out)
    seconds = time.perf_counter() - started
    answer = {
        "tensors": len(places),
        "parameters": sum(place["count"] for place in places),
        "bytes": written + len(header),
        "seconds": seconds,
        "bytesPerSecond": written / seconds,
        "torch": torch.__version__,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
