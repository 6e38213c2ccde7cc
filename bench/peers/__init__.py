"""What Modum is measured against, one subject a file, each a process of its own.

A peer prints `ready`, then answers each line on its standard input with the seconds of one transfer, until the input
ends.
"""
