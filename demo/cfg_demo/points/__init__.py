"""Text-described clouds of points in the plane: the smallest world in which guidance can be measured exactly."""
