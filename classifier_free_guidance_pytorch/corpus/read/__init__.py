"""Captions from files, folders and datasets, one at a time, and what is no caption by name."""
