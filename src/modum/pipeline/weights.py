"""Gather the weights of all stages on the first one: every other stage sends its own, array by array."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from modum.pipeline.channel import Reader, Writer

if TYPE_CHECKING:
    from modum.box import Box
    from modum.pipeline.channel import Array
    from modum.pipeline.liveness import StageRoster
    from modum.pipeline.stage import Stage

__all__ = ["all_weights", "send_weights"]

_SLOTS: Final = 2
_END: Final = {"end": True}


def send_weights(stage: Stage, box: Box, prefix: str, roster: StageRoster) -> None:
    """Send a stage's weights to the first stage, and wait until it has them."""
    wait = roster.waiting("sending weights to stage 0")
    with closing(Writer(box, f"{prefix}/weights/{stage.index}", slots=_SLOTS, wait=wait)) as writer:
        for weight in stage.weights():
            writer.send({"name": weight.name}, [weight.array])
        writer.send(_END, [])
        writer.drain()


def all_weights(stage: Stage, box: Box, prefix: str, roster: StageRoster) -> dict[str, Array]:
    """Return the weights of the whole model by name, in the order of the stages; called on the first stage."""
    found = {weight.name: weight.array for weight in stage.weights()}
    for index in range(1, stage.stages):
        wait = roster.waiting(f"waiting for weights of stage {index}")
        with closing(Reader(box, f"{prefix}/weights/{index}", wait=wait)) as reader:
            while (message := reader.receive()).note != _END:
                found[message.note["name"]] = message.arrays[0]
    return found
