"""Eager PyTorch on a GPU: the times that bench/gpu/run.mjs compares with.

    python3 bench/peer/gpu.py request.json     (the last line of standard output is the answer)

The request names the weights, the model's shape and the cases:

    {"path", "config", "dtype", "device", "textTokens", "seeds", "guidance", "sigma", "seconds", "rounds",
     "cases": [{"name", "grid": [rows, columns], "anchors"?: [...], "save"?: path}]}

Every case is the velocity at all tokens of the grid or at the anchors. Cases take turns. On a GPU a time is that between
two events on the stream with nothing else queued, and the host's clock around call and synchronisation stands beside it:
both sides of the comparison wait for the device after each step.

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

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WARMUPS = 3


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


class Clock:
    """Seconds of a call, by the device's events where there are any and by the host."""

    def __init__(self, device: torch.device):
        self.device = device
        self.is_cuda = device.type == "cuda"

    def time(self, call) -> tuple[float, float]:
        if not self.is_cuda:
            started = time.perf_counter()
            call()
            seconds = time.perf_counter() - started
            return seconds, seconds
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        started = time.perf_counter()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3, time.perf_counter() - started


def spread(samples: list[float]) -> dict:
    ordered = sorted(samples)

    def quantile(p: float) -> float:
        at = p * (len(ordered) - 1)
        low = int(at)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (at - low) * (ordered[high] - ordered[low])

    return {"median": quantile(0.5), "low": quantile(0.1), "high": quantile(0.9), "samples": len(ordered)}


def prepare(case: dict, request: dict, shape: FluxShape, dtype: torch.dtype, device: str) -> dict:
    rows, columns = case["grid"]
    seeds = request["seeds"]
    tokens = randn(seeds["tokens"], 1, rows * columns, shape.inChannels)
    anchors = case.get("anchors")
    index = torch.arange(rows * columns) if anchors is None else torch.tensor(anchors)
    return {
        "tokens": tokens[:, index].to(device, dtype),
        "positions": grid_positions(rows, columns)[index].to(device),
        "prompt": randn(seeds["prompt"], 1, request["textTokens"], shape.textDim).to(device, dtype),
        "pooled": randn(seeds["pooled"], 1, shape.pooledDim).to(device, dtype),
        "sigma": torch.tensor([request["sigma"]], dtype=dtype, device=device),
        "guidance": torch.tensor([request["guidance"]], dtype=torch.float32, device=device),
    }


def measure_cases(model, request: dict, shape: FluxShape, dtype: torch.dtype, clock: Clock) -> list[dict]:
    device = request["device"]
    inputs = {case["name"]: prepare(case, request, shape, dtype, device) for case in request["cases"]}
    samples: dict[str, list] = {case["name"]: [] for case in request["cases"]}
    finite = {}
    for case in request["cases"]:
        for _ in range(WARMUPS):
            velocity = model(**inputs[case["name"]])
        finite[case["name"]] = bool(torch.isfinite(velocity).all())
        if case.get("save"):
            with open(case["save"], "wb") as file:
                file.write(velocity.float().cpu().contiguous().numpy().tobytes())
        del velocity
    started = time.perf_counter()
    for round_number in range(request["rounds"]):
        if round_number >= 2 and time.perf_counter() - started > request["seconds"]:
            break
        order = request["cases"] if round_number % 2 == 0 else list(reversed(request["cases"]))
        for case in order:
            samples[case["name"]].append(clock.time(lambda: model(**inputs[case["name"]])))
    return [
        {
            "name": name,
            "device": spread([pair[0] for pair in pairs]),
            "host": spread([pair[1] for pair in pairs]),
            "finite": finite[name],
        }
        for name, pairs in samples.items()
    ]


def measure_parts(request: dict, shape: FluxShape, dtype: torch.dtype, clock: Clock) -> list[dict]:
    """Products and attention of one dense step, alone."""
    device = request["device"]
    width, hidden, text = shape.hiddenSize, shape.mlpRatio * shape.hiddenSize, request["textTokens"]
    rows, columns = request["cases"][0]["grid"]
    image = rows * columns
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
    parts = []
    for tokens, inputs, outputs, calls in products:
        x = torch.randn(tokens, inputs, device=device, dtype=dtype)
        # Several weights in turn: in a step none is in the cache when its layer begins.
        weights = [torch.randn(outputs, inputs, device=device, dtype=dtype) / inputs**0.5 for _ in range(4)]
        bias = torch.randn(outputs, device=device, dtype=dtype)
        seconds = repeated(lambda i: F.linear(x, weights[i % 4], bias), clock)
        parts.append(
            {
                "part": "product",
                "shape": [tokens, inputs, outputs],
                "calls": calls,
                "seconds": seconds,
                "flops": 2 * tokens * inputs * outputs,
            }
        )
    sequence = image + text
    q, k, v = (
        torch.randn(1, shape.heads, sequence, shape.headDim, device=device, dtype=dtype) for _ in range(3)
    )
    parts.append(
        {
            "part": "attention",
            "shape": [shape.heads, sequence, shape.headDim],
            "calls": doubles + singles,
            "seconds": repeated(lambda _: F.scaled_dot_product_attention(q, k, v), clock),
            "flops": 4 * shape.heads * sequence * sequence * shape.headDim,
        }
    )
    return parts


def repeated(call, clock: Clock, batches: int = 5, each: int = 8) -> float:
    """Median seconds of one call, several of them queued at once: without the host's time between them."""
    for i in range(3):
        call(i)

    def batch():
        for i in range(each):
            call(i)

    return statistics.median(clock.time(batch)[0] for _ in range(batches)) / each


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    device = torch.device(request["device"])
    clock = Clock(device)
    shape = FluxShape(**{**request["config"], "ropeAxes": tuple(request["config"]["ropeAxes"])})
    dtype = DTYPES[request["dtype"]]
    answer = {"torch": torch.__version__, "python": sys.version.split()[0], "cuda": torch.version.cuda}
    if clock.is_cuda:
        answer["cudnn"] = torch.backends.cudnn.version()
        torch.cuda.init()
    with torch.inference_mode():
        started = time.perf_counter()
        model = load_flux_eager(request["path"], shape, dtype, request["device"])
        if clock.is_cuda:
            torch.cuda.synchronize()
        answer["loadSeconds"] = time.perf_counter() - started
        answer["cases"] = measure_cases(model, request, shape, dtype, clock)
        if clock.is_cuda:
            answer["peakAllocatedBytes"] = torch.cuda.max_memory_allocated()
        del model
        if clock.is_cuda:
            torch.cuda.empty_cache()
        answer["parts"] = measure_parts(request, shape, dtype, clock)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
