#!/bin/bash
# Each task makes a part of the prompts: of 4 tasks the first one makes lines 1, 5, 9, ...
#SBATCH --array=1-4
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
set -euo pipefail
part=$SLURM_ARRAY_TASK_ID
parts=$SLURM_ARRAY_TASK_COUNT
exec steadyflux batch <(split -n "r/$part/$parts" prompts.txt) -o "pictures/part-$part" \
  --threads "${SLURM_CPUS_PER_TASK:-1}"
