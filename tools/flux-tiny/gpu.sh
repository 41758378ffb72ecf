#!/usr/bin/env bash
# Trains on a lent GPU machine (docs/gpu/README.md), run from the repository's root there. Beside it in .train/, because the
# pack of scripts/gpu-check leaves the large files of this folder at home:
#
#   mkdir -p .train && cp tools/flux-tiny/*.{py,json} tools/flux-tiny/*.safetensors run/text_pretrained.safetensors .train/
#
#   bash tools/flux-tiny/gpu.sh MINUTES
#
# The run is in /tmp/run, so another call on the same machine goes on with it. What comes back lies in $OUT: the weights in
# float16 (for export.py --weights, or train.py --init), the log and sample sheets.
set -euo pipefail
export PYTHONUNBUFFERED=1
bash scripts/gpu-check unpack --budget 60 --out /tmp/unpacked >/dev/null
cp .train/*.py .train/*.json tools/flux-tiny/
cp .train/{detector,vae_encoder}.safetensors tools/flux-tiny/
mkdir -p /tmp/run
cp -n .train/text_pretrained.safetensors /tmp/run/
cd tools/flux-tiny
python3 train.py --run /tmp/run --recipe recipe-gpu.json --device cuda --workers 10 --minutes "$1" --write-every 0.3 \
  2>&1 | tee -a /tmp/run/train.log | cut -c1-200
python3 export.py --run /tmp/run --checkpoint "$OUT/checkpoint.safetensors"
cp /tmp/run/log.jsonl /tmp/run/train.log "$OUT/"
# The sheets of the last stage that ended.
last=$(ls /tmp/run/*px.png 2>/dev/null | sed 's/.*\/\([0-9]*\)-.*/\1/' | sort -u | tail -1)
if [[ -n $last ]]; then cp /tmp/run/"$last"-*px.png "$OUT/"; fi
