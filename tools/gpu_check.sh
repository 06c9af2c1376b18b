#!/bin/sh
# Packs what a machine with a GPU but without Rust needs to check and time this tree: the program and the test
# executables, stripped, into a folder (default target/gpu). There, from the top of the same tree:
#
#     sh tools/gpu_check.sh [FOLDER]             # here: build and pack
#     sh FOLDER/check.sh [TEST…]                 # there: all tests of the pack, or those named
#
# Kernels are compiled there, through NVRTC. Tests find their files where the tree lay when they were built: check.sh puts
# a link there if nothing is.
set -eu
folder=${1:-target/gpu}
tests='small_model cuda_vs_cpu model_golden train_golden inference generate probes'
rm -rf "$folder"
mkdir -p "$folder"
cargo build --release
strip -o "$folder/emlab" target/release/emlab
for test in $tests; do
    [ -e "tests/$test.rs" ] || [ -e "tests/$test/main.rs" ] || continue
    built=$(cargo test --no-run --test "$test" --message-format=json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep "/$test-" | tail -1)
    strip -o "$folder/$test" "$built"
done
cat >"$folder/check.sh" <<END
set -u
top=\$(pwd)
[ -e '$PWD' ] || { mkdir -p '$(dirname "$PWD")' && ln -s "\$top" '$PWD'; }
nvidia-smi --query-gpu=name,driver_version,clocks.sm,temperature.gpu,clocks_throttle_reasons.active --format=csv,noheader
status=0
for test in \${*:-$tests}; do
    [ -e "$folder/\$test" ] || continue
    RUST_BACKTRACE=0 "$folder/\$test" --test-threads=1 || status=1
done
exit \$status
END
du -sh "$folder"
