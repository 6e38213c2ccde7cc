"""A memory server: its segments, sessions and primitives, and the threads that serve them."""
