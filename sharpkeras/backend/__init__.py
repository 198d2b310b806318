"""What differs between TensorFlow and JAX, and what makes either fast: one file for each concern."""
