"""What crosses the wire: frames, messages, the layout of buffers, and all limits. No I/O."""
