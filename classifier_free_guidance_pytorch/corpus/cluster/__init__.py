"""Several processes on one folder: who takes which shard, who waits for whom, and what is done again."""
