#!/usr/bin/env bash
# What only a GPU can tell, in two commands of at most five minutes each:
#
#     bash benchmarks/gpu/run.sh part1|part2 [--tiny]
#
# --tiny (or MEDSEG_GPU_TINY=1): a dry run with tiny sizes, on a CPU too; its numbers mean nothing.
# Variables: OUT   folder of the results          (benchmarks/gpu/out, or benchmarks/gpu/out/tiny)
#            WORK  folder of everything else      (benchmarks/gpu/scratch, or benchmarks/gpu/scratch/tiny)
#            LIMIT seconds of the whole command   (290; 900 for a dry run)
#            ONLY  steps to run, "windows:sliding steps:compiled" (all); their rows are added to those in OUT
#            COMMIT for the results, where the copy of the repository has no history
#            PYTHON                               (python3)
set -euo pipefail
began=$(date +%s)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}

part=${1:-}
tiny=()
below=
if [[ ${2:-} == --tiny || ${MEDSEG_GPU_TINY:-} == 1 ]]; then
    tiny=(--tiny)
    below=/tiny
fi
if [[ $part != part1 && $part != part2 ]] || [[ $# -gt 1 && $2 != --tiny ]]; then
    echo "usage: bash benchmarks/gpu/run.sh part1|part2 [--tiny], got: $*" >&2
    exit 2
fi
out=${OUT:-$here/out$below}
work=${WORK:-$here/scratch$below}
limit=${LIMIT:-$([[ $below ]] && echo 900 || echo 290)}
mkdir -p "$out" "$work"

export PYTHONPATH=$root:$root/benchmarks/trainings:$root/benchmarks/speed:$here
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
export GPU_COMMAND="bash benchmarks/gpu/run.sh $*"

# wheels of what this Python lacks; a dry run takes what is installed, unless told to take the pack
if compgen -G "$here/pack/wheels/*.whl" >/dev/null && [[ -z $below || ${MEDSEG_GPU_PACK:-} == 1 ]]; then
    site=$work/site
    if [[ ! -e $site/.complete ]]; then
        rm -rf "$site"
        "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$here"/pack/wheels/*.whl
        touch "$site/.complete"
    fi
    export PYTHONPATH=$PYTHONPATH:$site
fi

cd "$root"
exec "$python" "$here/run.py" "$part" --out "$out" --work "$work" --deadline $((began + limit)) "${tiny[@]}" ${ONLY:+--only $ONLY}
