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
    # initcheck does not see what the copy engine stores. racecheck is slow: it watches what the others have watched once.
    skip=
    [ "$tool" = memcheck ] || skip='--skip long'
    compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
        "$folder/small_model" --test-threads=1 $skip || status=1
done
exit $status
