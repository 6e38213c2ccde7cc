"""Checkpoints of a whole job: the servers' snapshots and each worker's own state, all of one moment."""
