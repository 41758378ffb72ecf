#!/usr/bin/env bash
# `npm run gpu-check` where there is a GPU, PyTorch, CMake and nvcc, but neither Node nor a network: unpacks what
# scripts/gpu-check-pack.mjs made, takes Python's LibTorch, and goes on with the Node of the pack. Same arguments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${JIT_FLUX_PYTHON:-python3}"

# Unless an earlier call on this machine did. Python's tar, because xz may be missing.
node="$PWD/.cmake-build/packed-node"
digest="$(sha256sum <.gpu/pack.tar.xz)"
if [[ ! -d models || ! -f $node/digest || $(<"$node/digest") != "$digest" ]]; then
  "$python" -m tarfile -e .gpu/pack.tar.xz .
  printf '%s' "$digest" >"$node/digest"
fi
# There is no compiler of TypeScript: the sources that were just sent must not look newer than what was made of them.
find dist -type f -exec touch {} +

# PyTorch's environment brings CMake and Ninja; CUDA's compiler may be beside the PATH.
export PATH="$node:$(dirname "$("$python" -c 'import sys; print(sys.executable)')"):$PATH:/usr/local/cuda/bin"
torch="$("$python" -c 'import importlib.util as u; print(list(u.find_spec("torch").submodule_search_locations)[0])')"

# Room for the weights: /dev/shm is half of the memory that the machine started with, and a lent one starts with little.
if [[ $EUID == 0 ]]; then mount -o remount,size=75% /dev/shm 2>/dev/null || true; fi

exec node scripts/gpu-check.mjs --commit "$(<.gpu/commit)" --libtorch "$torch" --python "$python" "$@"
