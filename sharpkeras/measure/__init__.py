"""The numbers of the paper's tables: error with its interval, cost, and latency, each with how it was measured."""
