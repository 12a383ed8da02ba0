"""The launcher `slurm`: points of a sweep as jobs of a cluster."""
