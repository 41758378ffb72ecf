#!/usr/bin/env bash
# Draws the first pictures of the model card's 400 captions with the package, and adds what they show to
# SIZE-NAME.jsonl in .train/verdicts (or $VERDICTS):
#   judge/score.sh 512 jit-4x 400 --preset jit-4x
# A call that was interrupted, or one with a smaller number before, is continued. Pictures are kept in .train/scoring (or
# $PICTURES) by the model that drew them. Verdicts of earlier weights, detectors or captions are refused. $PYTHON: a Python
# with torch.
set -euo pipefail
cd "$(dirname "$0")/.."
size=$1 name=$2 count=$3
shift 3
model=$(cat ../../models/flux-tiny/*.pt | sha256sum | cut -c1-16)
pictures=${PICTURES:-../../.train/scoring}/$model
captions=$pictures/captions.txt
folder=${VERDICTS:-../../.train/verdicts}
verdicts=$folder/$size-$name.jsonl
mkdir -p "$pictures" "$folder"
python=${PYTHON:-python3}
"$python" -m judge.evaluate --captions "$captions" --count 400
judge() { "$python" -m judge.evaluate --captions "$captions" --pictures "$pictures/$size-$name" --verdicts "$verdicts"; }
scored=0
if [[ -e $verdicts ]]; then
  judge # refuses what is not of these weights before hours go into pictures
  # As far as no picture is missing: an interrupted call may have left gaps between what its processes drew.
  scored=$(sed -n 's/.*"picture": \([0-9]*\).*/\1/p' "$verdicts" | sort -n | awk '$1 == NR - 1 { n = NR } END { print n + 0 }')
fi

# One thread a process: pictures are independent, the threads of one picture wait for each other.
processes=$(nproc)
each=$(((count - scored + processes - 1) / processes))
running=()
trap 'kill "${running[@]}" 2>/dev/null || true' EXIT
for ((first = scored; first < count; first += each)); do
  OMP_NUM_THREADS=1 node judge/draw.mjs --captions "$captions" --out "$pictures/$size-$name" --size "$size" \
    --first "$first" --count "$((first + each < count ? each : count - first))" "$@" &
  running+=($!)
done
for process in "${running[@]}"; do wait "$process"; done
judge
