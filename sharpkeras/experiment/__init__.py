"""The composition root: a file for each command, put together from all other modules.

Every function takes plain values and recipes; the command line adds words and progress.
"""
