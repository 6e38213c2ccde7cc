"""A stage's channels to the stages before and after it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from modum.pipeline.channel import Inbox, Outbox, Reader, Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from modum.box import Box
    from modum.pipeline.channel import Wait
    from modum.pipeline.stage import Stage

__all__ = ["Neighbours"]


class Neighbours:
    """A stage's channels, at most four: activations in and out, and gradients out and in.

    Args:
        box: where the channels are.
        prefix: prefix of their names, the pipeline's.
        stage: this worker's stage.
        bound: messages that may be under way in each channel without making `send` wait.
        waiting: takes the text for errors and returns the function that waits for a counter.

    Attributes:
        forward_in: activations of the stage before; None on the first stage.
        backward_out: gradients for the stage before.
        forward_out: activations for the stage after; None on the last stage.
        backward_in: gradients from the stage after.
    """

    def __init__(self, box: Box, prefix: str, stage: Stage, *, bound: int, waiting: Callable[[str], Wait]) -> None:
        index = stage.index
        self._stack = ExitStack()

        def outbox(cut: int, direction: str, receiver: int) -> Outbox:
            wait = waiting(f"sending {direction} to stage {receiver}")
            made = Outbox(Writer(box, f"{prefix}/cut/{cut}/{direction}", slots=bound, wait=wait), bound)
            self._stack.callback(made.close)
            return made

        def inbox(cut: int, direction: str, sender: int) -> Inbox:
            wait = waiting(f"waiting for {direction} of stage {sender}")
            made = Inbox(Reader(box, f"{prefix}/cut/{cut}/{direction}", wait=wait))
            self._stack.callback(made.close)
            return made

        with ExitStack() as failing:
            failing.callback(self._stack.close)
            self.forward_in = None if stage.first else inbox(index, "activations", index - 1)
            self.backward_out = None if stage.first else outbox(index, "gradients", index - 1)
            self.forward_out = None if stage.last else outbox(index + 1, "activations", index + 1)
            self.backward_in = None if stage.last else inbox(index + 1, "gradients", index + 1)
            failing.pop_all()

    @property
    def sent_bytes(self) -> int:
        """Bytes sent so far, both ways."""
        return sum(outbox.nbytes for outbox in (self.forward_out, self.backward_out) if outbox is not None)

    def drain(self) -> None:
        """Wait until the neighbours have received all messages sent."""
        for outbox in (self.forward_out, self.backward_out):
            if outbox is not None:
                outbox.drain()

    def close(self) -> None:
        """End the threads and delete the rings that this stage writes. Closing twice does nothing."""
        self._stack.close()
