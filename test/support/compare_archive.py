"""compare_archive.py ARCHIVE SAFETENSORS: torch.jit.load must give exactly the tensors of the other file.

Prints what was compared; fails with an assertion. Needs PyTorch only.
"""

import json
import struct
import sys
import zipfile

import torch

DTYPES = {
    "F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_safetensors(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = DTYPES[entry["dtype"]]
        flat = torch.frombuffer(data[begin:end], dtype=dtype) if end > begin else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def main():
    archive, reference = sys.argv[1:]
    assert zipfile.ZipFile(archive).testzip() is None, "a CRC-32 is wrong"
    module = torch.jit.load(archive)
    expected = read_safetensors(reference)
    parameters = dict(module.named_parameters())
    floating = {name for name, tensor in expected.items() if tensor.is_floating_point()}
    assert parameters.keys() == floating, parameters.keys() ^ floating
    found = module.state_dict()
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, tensor in expected.items():
        other = found[name]
        assert other.dtype == tensor.dtype and other.shape == tensor.shape, name
        assert other.is_contiguous(), name
        # By bytes, so that NaN equals itself.
        bits = tensor.flatten().view(torch.uint8)
        assert torch.equal(bits, other.flatten().view(torch.uint8)), name
    assert not any(parameter.requires_grad for parameter in parameters.values())
    assert not module.training
    print(f"{len(parameters)} parameters, {len(found) - len(parameters)} buffers")


if __name__ == "__main__":
    main()
