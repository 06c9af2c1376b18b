#!/bin/sh
# Watches the kernels at small shapes, on a GPU, with NVIDIA's compute-sanitizer: accesses out of bounds (memcheck), reads of
# what was never written (initcheck), races in shared memory (racecheck).
#
#     sh tools/sanitize.sh FOLDER [TOOL…]        # FOLDER as packed by tools/gpu_check.sh; all three tools, some 12 minutes
#
# racecheck watches one kernel at a time, over the test of its op: watching all at once breaks it (CUDA 13.0: "failed to
# handle a hardware exception"). Two of its reports do not count, and are told as known:
#   attention_backward  it does not see that a warp has read before one of its lanes arrives at an mbarrier: reported of
#                       tools/racecheck_limits.cu, too, which does nothing else
#   norm_backward       with the gain's gradient in blocks of 480 threads: stores and loads of `sums` in column_sums.cuh, though in
#                       the machine code, too, a barrier of the whole block (BAR.SYNC 0) stands between them; blocks of 128, 256
#                       and 512 threads, and rope's use of the same function, are not reported
set -u
folder=$1
shift
status=0

# racecheck KERNEL PROGRAM [FILTER]: kernels whose name holds KERNEL.
racecheck() {
    kernel=$1 program=$2 filter=${3:-}
    told=$(compute-sanitizer --tool racecheck --report-api-errors no --error-exitcode 9 \
        --kernel-name kernel_substring="$kernel" "$folder/$program" --test-threads=1 $filter 2>&1) && good=1 || good=0
    echo "racecheck $kernel: $(echo "$told" | grep 'RACECHECK SUMMARY' | tr -d '=')"
    # What is known excuses hazards, not a test that fails.
    [ $good = 1 ] || { [ "${4:-}" = known ] && echo "$told" | grep -q 'test result: ok'; } || status=1
}

# Compiles the kernels, unwatched.
"$folder/small_model" --test-threads=1 || exit 1
for tool in ${*:-memcheck initcheck racecheck}; do
    if [ "$tool" = racecheck ]; then
        for op in adamw glu rope sample mask; do racecheck ${op}_ cuda_vs_cpu $op::; done
        racecheck embedding_ cuda_vs_cpu embedding::embedding
        racecheck norm_forward cuda_vs_cpu norm::
        racecheck norm_add_forward cuda_vs_cpu norm::
        racecheck norm_backward cuda_vs_cpu norm:: known
        racecheck norm_add_backward cuda_vs_cpu norm:: known
        racecheck tensor_ cuda_vs_cpu linear::logits
        racecheck gemm_wgmma cuda_vs_cpu linear::many
        racecheck gemm_mma cuda_vs_cpu linear::a_row
        racecheck gemm_plain cuda_vs_cpu linear::many
        racecheck attention_cached cuda_vs_cpu attention::contexts
        racecheck attention_forward cuda_vs_cpu attention::packed
        racecheck attention_backward cuda_vs_cpu attention::packed known
        racecheck attention_mma cuda_vs_cpu attention::packed
        racecheck attention_plain model_golden
        racecheck cross_entropy model_golden
        racecheck log_sum generate choices
        continue
    fi
    # Others than memcheck do not see what the copy engine stores.
    skip=
    [ "$tool" = memcheck ] || skip='--skip long'
    watch="compute-sanitizer --tool $tool --report-api-errors no --error-exitcode 9"
    $watch "$folder/small_model" --test-threads=1 $skip || status=1
    $watch "$folder/cuda_vs_cpu" --test-threads=1 mask:: adamw:: || status=1
done
exit $status
