#!/bin/bash
# Train one experiment on Slurm, to its end: sbatch slurm.sh +experiment=mnist strategy=sharded [KEY=VALUE ...]
#SBATCH --job-name=framework
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4          # a process for each GPU: JAX gives process i of a node its GPU i
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120            # two minutes to save in, before the time is over
#SBATCH --requeue
#SBATCH --open-mode=append

restarts=100                                     # a job that fails again and again ends after so many
runs=${RUNS:-$HOME/runs}                         # on a file system that all nodes share
export FRAMEWORK_DATA=${FRAMEWORK_DATA:-$HOME/data} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK   # which srun does not take from the job by itself

# A process that fails ends the others, with its own exit code. Slurm would end them earlier, with another one.
srun --kill-on-bad-exit=0 python -m framework distributed=auto train.checkpoint_every=1000 "$@" \
    run.dir="$runs/$SLURM_JOB_ID" run.resume=auto
code=$?
case $code in
    0) exit 0 ;;              # done
    2 | 3 | 4 | 6) exit $code ;;  # a mistake in the config, a plugin or the data, or a loss that is not finite: for you
esac
# All else goes on from the last checkpoint: 143 after a signal, 137 if a process was killed, 7 if one is gone.
if [ "${SLURM_RESTART_COUNT:-0}" -lt $restarts ] && scontrol requeue "$SLURM_JOB_ID"; then
    sleep 60                  # until Slurm ends this script
fi
exit $code
