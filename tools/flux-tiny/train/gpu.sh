#!/usr/bin/env bash
# Trains on a GPU machine that is there for some minutes, run from the repository's root there; it reads the autoencoder
# of models/flux-tiny:
#
#   bash tools/flux-tiny/train/gpu.sh MINUTES [MINUTES without graphs, if training with them fails]
#
# The text encoder (train_text.py) has to be carried along:
#
#   mkdir -p .train && cp run/text_pretrained.safetensors .train/
#
# The run is in /tmp/run, so another call on the same machine goes on with it. What comes back lies in $OUT: the weights in
# float16 (for export.py --weights, or train.py --init), the log and the sample sheets of the last stage that ended.
set -uo pipefail
export PYTHONUNBUFFERED=1
mkdir -p /tmp/run
[[ -e /tmp/run/text_pretrained.safetensors ]] || cp .train/text_pretrained.safetensors /tmp/run/ || exit 1
cd tools/flux-tiny || exit 1
train() {
  python3 -m train.train --run /tmp/run --recipe train/recipe-gpu.json --device cuda --workers 10 --write-every 0.3 --minutes "$@" \
    2>&1 | tee -a /tmp/run/train.log | cut -c1-200
}
train "$1" || train "${2:-2}" --no-graphs
cp /tmp/run/log.jsonl /tmp/run/train.log "$OUT/"
python3 -m train.export --run /tmp/run --checkpoint "$OUT/checkpoint.safetensors"
last=$(find /tmp/run -name '*px.png' -printf '%f\n' | sort | tail -1 | cut -d- -f1)
if [[ -n $last ]]; then cp /tmp/run/"$last"-*px.png "$OUT/"; fi
