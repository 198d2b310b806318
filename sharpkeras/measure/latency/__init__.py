"""Latency: networks that take turns in fresh processes, with intervals."""
