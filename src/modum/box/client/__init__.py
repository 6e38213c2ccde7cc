"""A client's end: connections that lose nothing, and the fan-out of an operation to all servers.

From the inside out: `pending` is one request, `flow` the bytes of one socket, `endpoint` how a server is dialled and
authenticated, `connection` an ordered stream of requests that survives its socket, `pool` as many of them as threads
ask at one time, and `fanout` the transports to all servers.
"""
