"""Captions from files, folders and datasets, one at a time, and the reasons why entries have none."""
