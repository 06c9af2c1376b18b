#!/bin/sh
# Packs the program and the tests, stripped, into a folder (default target/gpu), for a machine that has a GPU but no Rust.
# Run the second command there, from the top of the same tree:
#
#     sh tools/gpu_check.sh [FOLDER]             # here: build and pack
#     sh FOLDER/check.sh [MODULE…]               # there: run the tests that use a GPU, all or those of some modules
#
# The kernels are compiled there, by NVRTC. Tests look for their files at the path where the tree was built; if nothing is
# there, check.sh creates a link.
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
