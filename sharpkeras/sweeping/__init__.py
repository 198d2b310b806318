"""Many runs: rows and seeds become jobs, each search → train → evaluate, carried out beside each other.

plan        the rows of a sweep, read and checked, and the command lines of each job
jobs        one job: its commands one after the other, each a process of its own
pools       where jobs run: this machine, Ray, Slurm
scheduling  the loop that begins jobs, waits for them, and stops them after a signal
record      the directory of a sweep: its rows, its lock
"""
