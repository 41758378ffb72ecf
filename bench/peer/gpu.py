"""Eager PyTorch on a GPU: what the part `peer` of bench/gpu/parts.mjs compares with.

    python3 bench/peer/gpu.py request.json     (the last line of standard output is the answer)

The request: {"path", "config", "device", "textTokens", "seeds", "guidance", "sigma", "seconds", "rounds", "grid",
"cases": [{"anchors", "save"}]}. Every case is the velocity at its anchors, in bfloat16; cases take turns. The answer has
all samples by the device's clock (between two events on the stream, with nothing else queued) and by the host's around
call and synchronisation: both sides of the comparison wait for the device after each step.

"parts" are the matrix products and the attention of one dense step alone, at the shapes in which our engine runs them
(q, k and v as one product): what a step costs at least, without the rest.
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

from flux_eager import FluxShape, grid_positions, load_flux_eager

DTYPE = torch.bfloat16
WARMUPS = 3


def timed(device: torch.device, call) -> tuple[float, float]:
    """Seconds of a call, by the device's events where there are any and by the host."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started,) * 2
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    started = time.perf_counter()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3, time.perf_counter() - started


def measure_cases(request: dict, shape: FluxShape, device: torch.device) -> list[dict]:
    model = load_flux_eager(request["path"], shape, DTYPE, request["device"])
    seeds, (rows, columns) = request["seeds"], request["grid"]

    def randn(seed: str, *sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=torch.Generator("cpu").manual_seed(seeds[seed]))

    tokens = randn("tokens", 1, rows * columns, shape.inChannels)
    shared = {
        "prompt": randn("prompt", 1, request["textTokens"], shape.textDim).to(device, DTYPE),
        "pooled": randn("pooled", 1, shape.pooledDim).to(device, DTYPE),
        "sigma": torch.tensor([request["sigma"]], dtype=DTYPE, device=device),
        "guidance": torch.tensor([request["guidance"]], dtype=torch.float32, device=device),
    }
    calls = []
    for case in request["cases"]:
        index = torch.tensor(case["anchors"])
        inputs = {
            "tokens": tokens[:, index].to(device, DTYPE),
            "positions": grid_positions(rows, columns)[index].to(device),
        }
        calls.append(lambda inputs=inputs: model(**inputs, **shared))
        for _ in range(WARMUPS):
            velocity = calls[-1]()
        with open(case["save"], "wb") as file:
            file.write(velocity.float().cpu().contiguous().numpy().tobytes())
    samples = [[] for _ in calls]
    started = time.perf_counter()
    for number in range(request["rounds"]):
        if number >= 2 and time.perf_counter() - started > request["seconds"]:
            break
        for i in range(len(calls)) if number % 2 == 0 else reversed(range(len(calls))):
            samples[i].append(timed(device, calls[i]))
    return [{"device": [pair[0] for pair in pairs], "host": [pair[1] for pair in pairs]} for pairs in samples]


def measure_parts(request: dict, shape: FluxShape, device: torch.device) -> list[dict]:
    """Products and attention of one dense step, alone."""
    width, hidden, text = shape.hiddenSize, shape.mlpRatio * shape.hiddenSize, request["textTokens"]
    image = request["grid"][0] * request["grid"][1]
    doubles, singles = shape.doubleBlocks, shape.singleBlocks
    products = [
        *(
            (tokens, inputs, outputs, doubles)
            for tokens in (image, text)
            for inputs, outputs in ((width, 3 * width), (width, width), (width, hidden), (hidden, width))
        ),
        (image + text, width, 3 * width, singles),
        (image + text, width, hidden, singles),
        (image + text, width + hidden, width, singles),
        (image, shape.inChannels, width, 1),
        (image, width, shape.outChannels, 1),
    ]
    options = {"device": device, "dtype": DTYPE}
    parts = []

    def measure(part: str, sizes: list[int], calls: int, flops: int, call) -> None:
        seconds = repeated(device, call)
        parts.append({"part": part, "shape": sizes, "calls": calls, "seconds": seconds, "flops": flops})

    for tokens, inputs, outputs, calls in products:
        x = torch.randn(tokens, inputs, **options)
        # Several weights in turn: in a step none is in the cache when its layer begins.
        weights = [torch.randn(outputs, inputs, **options) / inputs**0.5 for _ in range(4)]
        bias = torch.randn(outputs, **options)
        flops = 2 * tokens * inputs * outputs
        measure("product", [tokens, inputs, outputs], calls, flops, lambda i: F.linear(x, weights[i % 4], bias))
    sizes = [shape.heads, image + text, shape.headDim]
    q, k, v = (torch.randn(1, *sizes, **options) for _ in range(3))
    flops = 4 * shape.heads * (image + text) ** 2 * shape.headDim
    attend = F.scaled_dot_product_attention
    measure("attention", sizes, doubles + singles, flops, lambda _: attend(q, k, v))
    return parts


def repeated(device: torch.device, call, batches: int = 5, each: int = 8) -> float:
    """Median seconds of one call, several of them queued at once: without the host's time between them."""

    def batch():
        for i in range(each):
            call(i)

    batch()
    return statistics.median(timed(device, batch)[0] for _ in range(batches)) / each


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    device = torch.device(request["device"])
    shape = FluxShape(**{**request["config"], "ropeAxes": tuple(request["config"]["ropeAxes"])})
    answer = {"torch": torch.__version__, "peakBytes": 0}
    with torch.inference_mode():
        answer["cases"] = measure_cases(request, shape, device)
        if device.type == "cuda":
            answer["peakBytes"] = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
        answer["parts"] = measure_parts(request, shape, device)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
