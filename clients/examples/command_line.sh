#!/usr/bin/env bash
# What the command can do, on the demo recording: clients/examples/command_line.sh RECORDING FOLDER
# SPIKESEG_URL is the address of the service.
set -euo pipefail
recording=$1 folder=$2

spikeseg models
spikeseg info "$recording"
spikeseg convert "$recording" "$folder/street.raw" --duration 0.3
spikeseg info "$folder/street.raw"
spikeseg segment "$folder/street.raw" --out "$folder/mask.png"
spikeseg stream "$folder/street.raw" --save "$folder/masks" --overlay --video "$folder/street.mp4" --mcap "$folder/street.mcap"
spikeseg bench "$SPIKESEG_URL" --seconds 1 --sensor 64x48
