"""Cells, alphas, metrics and schedules as pictures; the only part that uses matplotlib."""
