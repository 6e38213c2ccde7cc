"""Segments of shared memory, their locks, and the operations on them: for servers and for clients that map them."""
