"""The folder that a corpus is stored in: files that are whole or absent, written once and proven as they are read."""
