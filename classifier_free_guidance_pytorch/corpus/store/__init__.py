"""The folder of a stored corpus: files that are whole or absent, written once and checked as they are read."""
