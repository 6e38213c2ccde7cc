"""A client's end: connections to a memory server that lose nothing.

From the inside out: `pending` is one request, `flow` the bytes of one socket, `endpoint` how a server is dialled and
authenticated, `connection` an ordered stream of requests that survives its socket, and `pool` as many of them as
threads ask at one time.
"""
