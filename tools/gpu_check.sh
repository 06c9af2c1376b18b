#!/bin/sh
# Packs what a machine with a GPU but without Rust needs to check and time this tree: the program and the tests,
# stripped, into a folder (default target/gpu). There, from the top of the same tree:
#
#     sh tools/gpu_check.sh [FOLDER]             # here: build and pack
#     sh FOLDER/check.sh [MODULE…]               # there: the tests that compute on a GPU, or those of some modules
#
# Kernels are compiled there, through NVRTC. Tests find their files where the tree lay when they were built: check.sh puts
# a link there if nothing is.
set -eu
folder=${1:-target/gpu}
modules='small_model cuda_vs_cpu model_golden train_golden inference generate probes'
rm -rf "$folder"
mkdir -p "$folder"
cargo build --release
strip -o "$folder/emlab" target/release/emlab
suite=$(cargo test --no-run --test suite --message-format=json | sed -n 's/.*"executable":"\([^"]*\/suite-[^"]*\)".*/\1/p')
strip -o "$folder/suite" "$suite"
cat >"$folder/check.sh" <<END
set -u
top=\$(pwd)
[ -e '$PWD' ] || { mkdir -p '$(dirname "$PWD")' && ln -s "\$top" '$PWD'; }
nvidia-smi --query-gpu=name,driver_version,clocks.sm,temperature.gpu,clocks_throttle_reasons.active --format=csv,noheader
status=0
for module in \${*:-$modules}; do
    RUST_BACKTRACE=0 "$folder/suite" --test-threads=1 "\$module::" || status=1
done
exit \$status
END
du -sh "$folder"
