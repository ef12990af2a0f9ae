"""Captions to encodings: the frozen encoders at work on the shards of a plan."""
