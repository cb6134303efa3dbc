#!/usr/bin/env bash
# All that needs a GPU, in under eight minutes: builds with CUDA, runs the tests of tests/cuda on the device, a part
# of them under compute-sanitizer, then the benches, which leave JSON lines and print tables.
#
#   bench/device.sh [FOLDER]     results go to FOLDER (device-results)
#   WHEEL=prunus.whl bench/device.sh     uses that build
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-device-results}
mkdir -p "$out"
failed=0
step() { # step NAME SECONDS COMMAND...
  local name=$1 seconds=$2 start=$SECONDS
  shift 2
  echo "== $name"
  timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log" | tail -n "${LINES_SHOWN:-25}"
  local rc=${PIPESTATUS[0]}
  echo "== $name: $((SECONDS - start)) s, exit $rc"
  [ "$rc" = 0 ] || failed=1
  return "$rc"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
sm=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
if [ -z "${WHEEL:-}" ]; then
  step build 300 python3 -m pip wheel -q --no-build-isolation --no-deps -w "$out" \
    -C cmake.define.PRUNUS_CUDA=ON -C "cmake.define.CMAKE_CUDA_ARCHITECTURES=$sm" . || exit 1
  WHEEL=$(ls "$out"/prunus-*.whl)
fi
python3 -m pip install -q --no-deps --force-reinstall "$WHEEL" || exit 1
python3 -m prunus info | tail -12
step tests 180 python3 -m pytest -q -p no:cacheprovider tests/cuda
for tool in memcheck racecheck; do
  step "$tool" 100 compute-sanitizer --tool "$tool" --error-exitcode 9 python3 -m pytest -q -p no:cacheprovider \
    tests/cuda/test_linear_gpu.py tests/cuda/test_selection.py -k "damaged or residual or (gpu and layouts)"
done
step decode 120 python3 -m bench.cuda_decode "$out/decode.jsonl" ${QUICK:+--quick}
step selection 120 python3 -m bench.cuda_selection "$out/selection.jsonl"
exit "$failed"
