"""The front of guidance: what every rule, schedule and saver gives for the forward passes that it takes."""
