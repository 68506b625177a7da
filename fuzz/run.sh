#!/usr/bin/env bash
# Fuzzes each target for FUZZ_S seconds (60), or those that have the word in their name: `fuzz/run.sh [WORD]`.
#
# Coverage-guided by libFuzzer on the stable compiler: fuzz/rustc.sh says how. What it learns stays in
# target/fuzz/<target>/corpus and is gone on with the next time. What breaks a promise lies in
# target/fuzz/<target>/found: mend the product, and keep the input as fuzz/corpus/<target>/found-<what>.
# KEEP=1 puts those inputs into fuzz/corpus that reach code which nothing there does.
set -euo pipefail
cd "$(dirname "$0")/.."
word=${1:-}
folder=${CARGO_TARGET_DIR:-target}/fuzz
RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/rustc.sh "${CARGO:-cargo}" build --quiet --locked -p picket-fuzz --features engine
# Beside the other programs, which the next build would replace it with.
mkdir -p "$folder"
cp "${CARGO_TARGET_DIR:-target}/debug/picket-fuzz" "$folder/picket-fuzz"
# A hang is 30 s on a machine that has other work; what memory a bomb could take shows as the resident set.
limits=(-timeout=30 -rss_limit_mb=1024 -max_len=65536)
failed=0
printf '%-18s %10s %8s %8s %8s\n' target inputs 'per s' edges 'MiB'
for kept in fuzz/corpus/*"$word"*; do
  target=${kept##*/}
  work=$folder/$target
  mkdir -p "$work/corpus" "$work/found"
  export PICKET_FUZZ=$target PICKET_FUZZ_SEEDS=$work/corpus
  status=0
  "$folder/picket-fuzz" "${limits[@]}" -max_total_time="${FUZZ_S:-60}" -print_final_stats=1 \
    -artifact_prefix="$work/found/" "$work/corpus" "$kept" >"$work/log" 2>&1 || status=$?
  stat() { sed -n "s/^stat::$1: *//p" "$work/log"; }
  edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/log" | tail -n 1)
  printf '%-18s %10s %8s %8s %8s\n' "$target" "$(stat number_of_executed_units)" \
    "$(stat average_exec_per_sec)" "$edges" "$(stat peak_rss_mb)"
  if [ "$status" -ne 0 ]; then
    failed=1
    grep --text -B 2 -A 3 'panicked at\|ERROR: libFuzzer\|SUMMARY' "$work/log" | head -n 20
    sed -n 's/.*Test unit written to /found: /p' "$work/log"
  elif [ -n "${KEEP:-}" ]; then
    # By edges alone: an input for each number of times that a loop was run would be thousands.
    "$folder/picket-fuzz" "${limits[@]}" -set_cover_merge=1 -use_counters=0 "$kept" "$work/corpus" >"$work/merge.log" 2>&1
  fi
done
exit "$failed"
