"""The exceptions that Modum raises: one tree, whose root is `ModumError`.

A mistake in an argument is a plain `ValueError` or `TypeError`; what is here happens while things run.
"""

__all__ = [
    "AuthenticationError",
    "BufferExistsError",
    "BufferNotFoundError",
    "ConnectionLostError",
    "DeadlineError",
    "ElsewhereError",
    "LeaseLostError",
    "MemberLostError",
    "MismatchError",
    "ModumError",
    "NotFiniteError",
    "PoolFullError",
    "ProtocolError",
    "SnapshotError",
    "StageError",
    "TransportError",
]


class ModumError(Exception):
    """Base class of all errors that Modum raises on purpose."""


class AuthenticationError(ModumError):
    """One side could not prove that it holds the job's token."""


class BufferExistsError(ModumError):
    """A buffer of this name exists already."""


class BufferNotFoundError(ModumError):
    """No buffer of this name exists, or it was deleted meanwhile."""


class ConnectionLostError(ModumError, ConnectionError):
    """A memory server could no longer be reached, or came back without its memory."""


class ForgottenError(ConnectionLostError):
    """A memory server has given this client up: whether its last request was applied is not known."""


class ElsewhereError(ConnectionLostError):
    """Another memory server has this place of the box now, or nobody has it; clients look for it by themselves."""


class DeadlineError(ModumError, TimeoutError):
    """A blocking call ran out of time; the message says for whom and for what it waited."""


class LeaseLostError(ModumError):
    """The lease, or the work item, now belongs to another client."""


class MemberLostError(ModumError):
    """A member of this worker's group has died, or does not come; the message has its rank, host and last step."""


class MismatchError(ModumError):
    """Two participants of one job disagree: on the model, the settings, or the list of servers."""


class NotFiniteError(ModumError):
    """A worker's weights have NaN or infinity among them; the shared weights have not taken part of that."""


class PoolFullError(ModumError):
    """The memory server's pool does not have enough room left."""


class ProtocolError(ModumError):
    """The other side sent something that the wire format does not allow."""


class SnapshotError(ModumError):
    """A memory server could not write a snapshot, or there is none from which it can be restored."""


class StageError(ModumError):
    """Another stage of the pipeline has failed or died; the message has its name and its error."""


class TransportError(ModumError):
    """The requested transport cannot be used here; the message says why."""
