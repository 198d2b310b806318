"""Measurements of the paper's tables: error with its interval, cost, and latency."""
