"""The first pass over the captions: every entry is checked, and equal captions become one."""
