#!/bin/sh
# Rebuilds everything in models/demo: the toy world, then both checkpoints, which emlab trains from random weights.
# Takes about 15 minutes on 2 cores. Run from the top of the repository: sh tools/make_demo.sh
set -eu
work=target/demo
python3 tools/make_demo_world.py --out models/demo --corpus "$work"
cargo build --release
for family in gemma3 qwen3; do
    target/release/emlab train --full --from-scratch --model "models/demo/$family" --data "$work/corpus.jsonl" \
        --settings models/demo/pretraining.toml --out "$work/$family"
    cp "$work/$family/model.safetensors" "models/demo/$family/"
done
