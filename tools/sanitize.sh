#!/bin/sh
# Runs the kernels at small shapes under NVIDIA's compute-sanitizer, on a GPU: out-of-bounds accesses (memcheck), reads of
# uninitialised memory (initcheck), races in shared memory (racecheck).
#
#     sh tools/sanitize.sh FOLDER [TOOL…]        # FOLDER as packed by tools/gpu_check.sh; default: all three tools
#
# racecheck watches one kernel at a time, in the test of its op, in eight parallel processes: watching all kernels at once
# breaks it (CUDA 13.0: "failed to handle a hardware exception"). Two of its reports are false positives, marked `known`:
#   attention_backward  it does not recognise that a warp's reads precede the arrival of one of its lanes at an mbarrier; it
#                       reports the same of tools/racecheck_limits.cu, which does nothing else
#   norm_backward       with the gain's gradient, in blocks of 480 threads: stores and loads of `sums` in column_sums.cuh, which
#                       a barrier of the whole block separates, in the machine code as well (BAR.SYNC 0); it does not report
#                       blocks of 128, 256 or 512 threads, nor rope's use of the same function
set -u
folder=$1
shift
watch='compute-sanitizer --report-api-errors no --error-exitcode 9'

# sanitize.sh FOLDER kernel KERNEL TESTS [known]: races in kernels whose name contains KERNEL, in tests whose name contains TESTS.
if [ "${1:-}" = kernel ]; then
    told=$($watch --tool racecheck --kernel-name kernel_substring="$2" "$folder/suite" --test-threads=1 "$3" 2>&1) && good=1 || good=0
    echo "racecheck $2: $(echo "$told" | grep 'RACECHECK SUMMARY' | tr -d '=')"
    # `known` excuses reported hazards, but not a failing test.
    [ $good = 1 ] || { [ "${4:-}" = known ] && echo "$told" | grep -q 'test result: ok'; } || exit 1
    exit 0
fi

status=0
# Fill the kernel cache first, without the sanitizer.
"$folder/suite" --test-threads=1 small_model:: || exit 1
for tool in ${*:-memcheck initcheck racecheck}; do
    if [ "$tool" = racecheck ]; then
        # The slowest first.
        xargs -P 8 -L 1 sh "$0" "$folder" kernel <<END || status=1
gemm_wgmma cuda_vs_cpu::linear::many
gemm_plain cuda_vs_cpu::linear::many
attention_plain model_golden::
norm_backward cuda_vs_cpu::norm:: known
norm_add_backward cuda_vs_cpu::norm:: known
norm_forward cuda_vs_cpu::norm::
norm_add_forward cuda_vs_cpu::norm::
cross_entropy model_golden::
attention_backward cuda_vs_cpu::attention::packed known
attention_forward cuda_vs_cpu::attention::packed
attention_mma cuda_vs_cpu::attention::packed
attention_cached cuda_vs_cpu::attention::contexts
log_sum generate::choices
gemm_mma cuda_vs_cpu::linear::a_row
tensor_ cuda_vs_cpu::linear::logits
adamw_ cuda_vs_cpu::adamw::
glu_ cuda_vs_cpu::glu::
rope_ cuda_vs_cpu::rope::
sample_ cuda_vs_cpu::sample::a_draw
mask_ cuda_vs_cpu::mask::
steer_ cuda_vs_cpu::steer::
embedding_ cuda_vs_cpu::embedding::embedding
END
        continue
    fi
    # The other tools do not see the stores of the copy engine (TMA).
    skip=
    [ "$tool" = memcheck ] || skip='--skip long'
    $watch --tool "$tool" "$folder/suite" --test-threads=1 small_model:: $skip || status=1
    $watch --tool "$tool" "$folder/suite" --test-threads=1 cuda_vs_cpu::mask:: cuda_vs_cpu::adamw:: cuda_vs_cpu::steer:: || status=1
done
exit $status
