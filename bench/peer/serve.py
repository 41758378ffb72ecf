"""Answers the benchmark's requests: one JSON object per line on standard input, one on standard output.

    {"op": "hello", "threads": 2}
    {"op": "load", "model": "a", "implementation": "eager" | "diffusers", "path", "config", "dtype"}
    {"op": "forward", "model", "input", "save"?}      -> {"seconds"}
    {"op": "sample", "model", "input", "plan", "pipeline"?: "eager" | "released", "save"?} -> {"seconds"}
    {"op": "jit_load", "path"}                        -> {"seconds"}
    {"op": "unload", "model"}
    {"op": "checkouts", "diffusers"?: path, "jit"?: path}

`input` names shapes and seeds; `torch.randn` with a CPU generator gives the same numbers as our own `Tensor.randn`, so
no tensor has to travel. Times are taken here, by perf_counter around the call alone. `save` asks for the result as raw
float32. An error is answered as {"error": "..."}; the process goes on.
"""

import gc
import json
import sys
import time
import traceback

import torch

import jit_eager
from flux_eager import FluxShape, grid_positions, load_flux_eager

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


class Model:
    """A transformer with the inputs it was last asked for."""

    def __init__(self, request: dict):
        self.config = FluxShape(**{**request["config"], "ropeAxes": tuple(request["config"]["ropeAxes"])})
        self.dtype = DTYPES[request["dtype"]]
        self.implementation = request["implementation"]
        if self.implementation == "eager":
            self.module = load_flux_eager(request["path"], self.config, self.dtype)
        else:
            from checkouts import load_diffusers

            self.module = load_diffusers(request["path"], self.config, self.dtype)
        self.prepared = (None, None)

    def inputs(self, request: dict) -> dict:
        key = json.dumps(request, sort_keys=True)
        if self.prepared[0] != key:
            self.prepared = (key, self.prepare(request))
        return self.prepared[1]

    def prepare(self, request: dict) -> dict:
        config = self.config
        rows, columns = request["grid"]
        tokens = randn(request["tokenSeed"], 1, rows * columns, config.inChannels)
        positions = grid_positions(rows, columns)
        anchors = request.get("anchors")
        index = torch.arange(rows * columns) if anchors is None else torch.tensor(anchors)
        return {
            "latents": tokens.to(self.dtype),
            "tokens": tokens[:, index].to(self.dtype),
            "places": positions,
            "positions": positions[index],
            "prompt": randn(request["promptSeed"], 1, request["textTokens"], config.textDim).to(self.dtype),
            "pooled": randn(request["pooledSeed"], 1, config.pooledDim).to(self.dtype),
            "sigma": torch.tensor([request["sigma"]], dtype=torch.float32),
            "guidance": torch.tensor([request["guidance"]], dtype=torch.float32),
        }

    def velocity(self, i: dict, tokens: torch.Tensor, positions: torch.Tensor, sigma: torch.Tensor):
        if self.implementation == "eager":
            return self.module(tokens, positions, i["prompt"], i["pooled"], sigma.to(self.dtype), i["guidance"])
        return self.module(
            hidden_states=tokens,
            encoder_hidden_states=i["prompt"],
            pooled_projections=i["pooled"],
            timestep=sigma.to(self.dtype),
            img_ids=positions,
            txt_ids=positions.new_zeros(i["prompt"].shape[1], 3),
            guidance=i["guidance"] if self.config.guidance else None,
            return_dict=False,
        )[0]


def save(request: dict, result: torch.Tensor) -> None:
    if request.get("save"):
        with open(request["save"], "wb") as file:
            file.write(result.float().contiguous().numpy().tobytes())


class Server:
    def __init__(self):
        self.models: dict[str, Model] = {}

    def hello(self, request: dict) -> dict:
        torch.set_num_threads(request["threads"])
        return {
            "torch": torch.__version__,
            "python": sys.version.split()[0],
            "threads": torch.get_num_threads(),
            "cpuCapability": torch.backends.cpu.get_cpu_capability(),
        }

    def checkouts(self, request: dict) -> dict:
        from checkouts import import_diffusers, import_released_jit

        answer = {}
        for name, load in (("diffusers", import_diffusers), ("jit", import_released_jit)):
            if request.get(name) is None:
                continue
            try:
                answer[name] = {"version": load(request[name])}
            except Exception as error:
                answer[name] = {"error": f"{type(error).__name__}: {error}"}
        return answer

    def load(self, request: dict) -> dict:
        started = time.perf_counter()
        self.models[request["model"]] = Model(request)
        return {"seconds": time.perf_counter() - started}

    def unload(self, request: dict) -> dict:
        self.models.pop(request["model"], None)
        gc.collect()
        return {}

    def forward(self, request: dict) -> dict:
        model = self.models[request["model"]]
        i = model.inputs(request["input"])
        started = time.perf_counter()
        result = model.velocity(i, i["tokens"], i["positions"], i["sigma"])
        seconds = time.perf_counter() - started
        save(request, result)
        return {"seconds": seconds}

    def sample(self, request: dict) -> dict:
        model = self.models[request["model"]]
        i = model.inputs(request["input"])
        plan = request["plan"]
        noise = randn(plan["noiseSeed"], *i["latents"].shape).to(model.dtype)
        if request.get("pipeline") == "released":
            from checkouts import run_released_jit

            result, seconds = run_released_jit(model, i, plan)
        else:
            started = time.perf_counter()
            result = jit_eager.sample(
                lambda tokens, anchors, sigma: model.velocity(
                    i, tokens, i["places"][anchors], torch.tensor([sigma], dtype=torch.float32)
                ),
                i["latents"],
                noise,
                torch.tensor(plan["anchors"]),
                plan["sigmas"],
                plan["tokensPerStep"],
                tuple(request["input"]["grid"]),
            )
            seconds = time.perf_counter() - started
        save(request, result)
        return {"seconds": seconds}

    def jit_load(self, request: dict) -> dict:
        started = time.perf_counter()
        module = torch.jit.load(request["path"], map_location="cpu")
        seconds = time.perf_counter() - started
        parameters = sum(1 for _ in module.parameters())
        del module
        gc.collect()
        return {"seconds": seconds, "parameters": parameters}


def main() -> None:
    answers = sys.stdout
    # Whatever a library prints must not reach the stream of answers.
    sys.stdout = sys.stderr
    server = Server()
    with torch.inference_mode():
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(server, request.pop("op"))(request)
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
