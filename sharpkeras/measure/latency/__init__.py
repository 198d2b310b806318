"""Latency benchmarks: networks take turns in fresh processes; figures have intervals."""
