"""A page in the browser to play with: coloured shapes, emoji, and models of your own."""
