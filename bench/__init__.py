"""What Modum's speed and memory are measured by, and against whom. `python -m bench --help` tells how to run it.

Every row is a ratio, or a figure with a bar, taken within one run: the two sides of a ratio take turns, so that what
else happens on the machine hits both. Nothing in `src` imports this package.
"""
