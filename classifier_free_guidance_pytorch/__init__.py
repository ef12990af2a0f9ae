"""Text conditioning and guidance for any PyTorch module."""
