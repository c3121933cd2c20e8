# Sourced by the job scripts beside it.
#
# run_and_requeue COMMAND... : run a training; where it was stopped with its state saved, put the job back into the queue.
# The marker file decides, since torchrun ends with 1 whatever its processes end with. Slurm sends USR1 to the script ahead
# of the time limit (#SBATCH --signal=B:USR1@120); the training gets it as SIGTERM, which torchrun hands on to its
# processes. One that was still starting then leaves no marker, and is put back as well. A job that is back has the same
# words; Slurm counts it in SLURM_RESTART_COUNT, and overwrite=true is left out then.
run_and_requeue() {
    local marker="$PWD/requeue-$SLURM_JOB_ID" asked=no code step
    rm -f "$marker"
    trap 'asked=yes; kill -TERM "$step"' USR1 TERM
    "$@" "requeue_file=$marker" &
    step=$!
    # A trapped signal ends `wait` with 128 and more, while the training goes on.
    while wait "$step"; code=$?; [ "$code" -ge 128 ] && kill -0 "$step" 2>/dev/null; do :; done
    trap - USR1 TERM
    if [ ! -e "$marker" ] && { [ "$asked" = no ] || [ "$code" -eq 0 ]; }; then
        return "$code"
    fi
    # What scancel or a preemption ends is COMPLETING by now: Slurm itself does what is due.
    if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = COMPLETING ]; then
        return "$code"
    fi
    rm -f "$marker"
    echo "job $SLURM_JOB_ID goes back into the queue and resumes from its last state"
    scontrol requeue "$SLURM_JOB_ID"
}
