#!/bin/sh
# Watches the kernels for accesses out of bounds and reads of what was never written, with NVIDIA's compute-sanitizer, at
# the small shapes of tests/small_model.rs, on a GPU:
#
#     sh tools/sanitize.sh FOLDER [TOOL…]        # FOLDER as packed by tools/gpu_check.sh; memcheck initcheck
#
# racecheck can be asked for; that of CUDA 13.0 fails by itself on kernels with wgmma.
set -u
folder=$1
shift
# Compiles the kernels, unwatched.
"$folder/small_model" --test-threads=1 || exit 1
status=0
for tool in ${*:-memcheck initcheck}; do
    # Others than memcheck do not see what the copy engine stores.
    skip=
    [ "$tool" = memcheck ] || skip='--skip long'
    compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
        "$folder/small_model" --test-threads=1 $skip || status=1
done
exit $status
