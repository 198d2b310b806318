"""Code that depends on the backend, TensorFlow or JAX, and its fast paths: one file for each concern."""
