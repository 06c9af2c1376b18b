#!/bin/sh
# Times the ops through PyTorch and through emlab, one after the other on the same card, and prints both side by side:
#
#     sh tools/bench.sh FOLDER [OPTION OF emlab bench…]     # --model, --tokens, --only
#     STEPS=1 sh tools/bench.sh FOLDER                      # a LoRA step and sampling through transformers as well
#
# Writes cases.csv, peer.csv, emlab.csv and table.txt into FOLDER, and CARD.csv, which combines both sides and can be
# committed to benches/results as it is. EMLAB names the program (default target/release/emlab), PYTHON a Python with PyTorch
# (python3). Do not trust a comparison on a card that throttles or whose clock changes during the run: the lines that show
# its state tell.
set -eu
folder=$1
shift
emlab=${EMLAB:-target/release/emlab}
python=${PYTHON:-python3}
peers=$(dirname "$0")/peers
only=
previous=
for argument; do
    [ "$previous" = --only ] && only=$argument
    previous=$argument
done

state() {
    echo "$1: $(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_throttle_reasons.active --format=csv,noheader)"
}

mkdir -p "$folder"
state 'before'
"$emlab" bench --device cuda --list --csv "$folder/cases.csv" "$@" >/dev/null
"$python" "$peers/ops_torch.py" "$folder/cases.csv" "$folder/peer.csv" --only "$only" ${PEER_OPTIONS:-}
state 'between'
# If an op fails, print the table first and exit with its status at the end.
status=0
"$emlab" bench --device cuda --csv "$folder/emlab.csv" --json "$folder/emlab.json" --peer "$folder/peer.csv" "$@" \
    >"$folder/table.txt" || status=$?
state 'after'
if [ "${STEPS:-}" = 1 ]; then
    rm -f "$folder/steps.csv"
    "$python" "$peers/lora_step.py" --csv "$folder/steps.csv"
    "$python" "$peers/generate.py" --csv "$folder/steps.csv"
    state 'after the steps'
fi
card=$(nvidia-smi --query-gpu=name --format=csv,noheader --id=0 | tr ' ' '-')
{
    cat "$folder/emlab.csv"
    tail -n +2 "$folder/peer.csv"
    [ ! -e "$folder/steps.csv" ] || tail -n +2 "$folder/steps.csv"
} >"$folder/$card.csv"
cat "$folder/table.txt"
exit $status
