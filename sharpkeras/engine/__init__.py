"""Training engine of searches and final trainings: step, loop over epochs, checkpoints, signals."""
