"""Classifier-free guidance, shown: drawn worlds, models small enough for a laptop, and the command `cfg-demo`."""

__version__ = '1.0.0'
