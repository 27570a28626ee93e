#!/usr/bin/env bash
# Makes benchmarks/gpu/pack: all that run.sh needs on a machine with one NVIDIA GPU, Python 3.12, torch 2.11, no network.
#
#     bash benchmarks/gpu/pack.sh [MANIFEST]      # default: $MEDSEG_DATA/la/compare_16.json
#
# wheels/  what medseg imports and such a machine lacks (wheels.txt), for CPython 3.12 on x86-64 Linux
# scans/   the scans of the manifest as 8-bit arrays; research use, never to be committed
#
# Variables: PYTHON (python3), which needs pip, NumPy and nibabel.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
manifest=${1:-${MEDSEG_DATA:-$root/../shared/data}/la/compare_16.json}
pack=$here/pack
most=$((60 * 1024 * 1024))

if [[ ! -f $manifest ]]; then
    echo "error: $manifest: no such manifest (set MEDSEG_DATA, or name one)" >&2
    exit 2
fi
target=(--no-deps --only-binary=:all: --python-version 3.12 --implementation cp)
for tag in 2_28 2_27 2_24 2_17 2014 1; do
    target+=(--platform "manylinux${tag/2_/_2_}_x86_64")
done

rm -rf "$pack"
mkdir -p "$pack"
"$python" -m pip download -q "${target[@]}" -d "$pack/wheels" -c "$root/constraints.txt" -r "$here/wheels.txt"
# the same resolver says whether it would install them there
"$python" -m pip install -q --dry-run --no-index --target "$pack/nowhere" "${target[@]}" "$pack"/wheels/*.whl
"$python" "$here/scans.py" pack "$manifest" "$pack/scans"

bytes=$(find "$pack" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
for part in wheels scans; do
    echo "$part: $(find "$pack/$part" -type f | wc -l) files, $(find "$pack/$part" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%.1f MiB", sum / 2^20 }')"
done
echo "together: $(awk "BEGIN { printf \"%.1f MiB\", $bytes / 2^20 }"), at most 60"
if ((bytes > most)); then
    echo "error: $pack is larger than 60 MiB" >&2
    exit 1
fi
