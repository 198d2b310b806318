"""What a search and a training have in common: the step, the loop over epochs, checkpoints, signals."""
