"""Snapshots of a memory server as files: what is in them, how they are written and read, in which folder they lie.

`take` is a client's part. Nothing here knows of a running server: `modum.box.server.snapshots` takes one's memory, and
`modum.box.server.restore` gives it back.
"""
