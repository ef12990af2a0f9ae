"""Distilling the library's embedded encoder of English from a sentence encoder six times its size."""
