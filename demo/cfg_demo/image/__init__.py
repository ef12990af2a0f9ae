"""Text to image: networks, training, guided sampling and evaluation on the drawn world or on a set of your own."""
