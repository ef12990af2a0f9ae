"""Several processes on one folder: which takes which shards, which waits for which, and what is done again."""
