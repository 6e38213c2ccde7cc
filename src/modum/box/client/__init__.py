"""A client's end: connections that lose nothing, and the fan-out of an operation to all servers."""
