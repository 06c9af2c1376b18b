#!/bin/sh
# Watches the kernels for accesses out of bounds, reads of what was never written, and races, with NVIDIA's
# compute-sanitizer, at the small shapes of tests/small_model.rs, on a GPU:
#
#     sh tools/sanitize.sh FOLDER [TOOL…]        # FOLDER as packed by tools/gpu_check.sh; memcheck initcheck racecheck
set -u
folder=$1
shift
# Compiles the kernels, unwatched.
"$folder/small_model" --test-threads=1 || exit 1
status=0
for tool in ${*:-memcheck initcheck racecheck}; do
    compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
        "$folder/small_model" --test-threads=1 || status=1
done
exit $status
