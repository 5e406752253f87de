#!/usr/bin/env bash
# The whole of training in small: clips -> data set -> LoRA -> Diffusers, in minutes on a laptop's CPU.
#
#   experiments/train_debug.sh [FOLDER]        (default: runs/train-debug; `make train-debug`)
#
# With a real model and real clips the commands are the same; only the two lines with
# `experiments.train_debug` are for show: they make a tiny model and hold the result against PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."

work="${1:-runs/train-debug}"
rm -rf "$work"
mkdir -p "$work"
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$work/programs" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

say "a tiny model as published, with random weights; pieces of two real clips, one of them broken"
python -m experiments.train_debug prepare "$work"

say "encode the clips, look at what there is"
pusa-jax encode --model "$work/model" --src "$work/clips" --dst "$work/encoded" \
    --height 32 --width 48 --num_frames 9
pusa-jax data inspect "$work/encoded"

say "train a LoRA, until the process is killed"
train=(pusa-jax train --config=configs/debug.py --workdir="$work/run"
    --config.model.weights="$work/model" --config.data.folder="$work/encoded")
"${train[@]}" &
until [ -d "$work/run/checkpoints/5" ]; do
    kill -0 $! || { echo "training ended before it could be killed" >&2; exit 1; }
    sleep 0.1
done
kill -KILL $!
wait $! && { echo "training was not killed" >&2; exit 1; }
ls "$work/run/checkpoints"

say "the same command goes on"
"${train[@]}"
tail -n 1 "$work/run/metrics.jsonl"
ls "$work/run/samples"

say "export the LoRA and sample with it"
pusa-jax export --src "$work/run" --dst "$work/lora" --dtype float32
pusa-jax i2v --model "$work/model" --lora_path "$work/lora/pusa_lora.safetensors" --lora_alpha 1 \
    --image_paths "$work/clips/bikes-0.png" --prompt "a bicycle" --output "$work/i2v.mp4" \
    --height 32 --width 48 --num_frames 9 --num_inference_steps 4 --dtype float32

say "the real Diffusers and PEFT load it and compute what the run computed"
pusa-jax export --src "$work/model" --dst "$work/diffusers" --layout diffusers
python -m experiments.train_debug compare "$work"

say "done; everything lies in $work"
