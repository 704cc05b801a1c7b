#!/bin/bash
# Eight processes, one for each GPU, take prompts from one file until it is done.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --requeue
srun steadyflux batch prompts.txt -o pictures
