"""The functions and structures of UCP that one-sided transfers need, bound by ctypes to the host's UCX (1.13 or newer).

The structures are those of API 1.13; later versions only append fields, and every call says by a mask which fields
count, so that one binding serves all of them.
"""

import ctypes as c
import os
import threading
from typing import Any, Final

from modum.errors import TransportError

LIBRARY: Final = "libucp.so.0"
INSTALL: Final = "apt-get install libucx0 ibverbs-providers, or dnf install ucx-ib rdma-core"
API: Final = (1, 13)
"""What is asked for; the library must be at least as new."""

SETTINGS: Final = {
    "TLS": "rc,self",
    "RC_TIMEOUT": "500ms",
    "RC_RETRY_COUNT": "5",
    "UD_TIMEOUT": "10s",
    "RC_VERBS_RX_QUEUE_LEN": "128",  # nobody sends messages here: 26 MB a connection instead of 84
    "UD_VERBS_RX_QUEUE_LEN": "128",
    "RC_MLX5_RX_QUEUE_LEN": "128",
    "UD_MLX5_RX_QUEUE_LEN": "128",
}
"""What is set unless the user's UCX_* variables say otherwise. Reliable connections only: shared memory has no failure
handling. With the default count of 7 a queue pair tries for ever; so does the wire-up for five minutes."""

OK: Final = 0
IN_PROGRESS: Final = 1
NO_ELEMENT: Final = -12
BUSY: Final = -15
LAST_ERROR: Final = -100  # a pointer to a request that is really a status lies within these of the end of memory
WRAP: Final = 1 << 64
FEATURE_RMA: Final = 1 << 1
FEATURE_WAKEUP: Final = 1 << 4
THREADS_IN_TURN: Final = 1  # UCS_THREAD_MODE_SERIALIZED
FAIL_WITH_PEER: Final = 1  # UCP_ERR_HANDLING_MODE_PEER

Pointer = c.c_void_p
Status = c.c_int8  # ucs_status_t is a packed enum: one byte
LATER: Final = ("later", c.c_char * 128)  # what newer versions append
OnError = c.CFUNCTYPE(None, Pointer, Pointer, Status)


class UcxError(TransportError):
    """A call of UCX failed.

    Args:
        what: the call.
        status: its number.
        text: what UCX says of it.
    """

    def __init__(self, what: str, status: int, text: str) -> None:
        super().__init__(f"{what}: {text}")
        self.status = status


class Params(c.Structure):
    """`ucp_params_t`."""

    _fields_ = (
        ("field_mask", c.c_uint64),
        ("features", c.c_uint64),
        ("request_size", c.c_size_t),
        ("request_init", Pointer),
        ("request_cleanup", Pointer),
        ("tag_sender_mask", c.c_uint64),
        ("mt_workers_shared", c.c_int),
        ("estimated_num_eps", c.c_size_t),
        ("estimated_num_ppn", c.c_size_t),
        ("name", c.c_char_p),
        LATER,
    )
    FEATURES, SHARED = 1 << 0, 1 << 5


class WorkerParams(c.Structure):
    """`ucp_worker_params_t`."""

    _fields_ = (("field_mask", c.c_uint64), ("thread_mode", c.c_int), ("rest", c.c_char * 188), LATER)
    THREAD_MODE = 1 << 0


class MapParams(c.Structure):
    """`ucp_mem_map_params_t`."""

    _fields_ = (
        ("field_mask", c.c_uint64),
        ("address", Pointer),
        ("length", c.c_size_t),
        ("flags", c.c_uint),
        ("protection", c.c_uint),
        ("memory_type", c.c_int),
        LATER,
    )
    ADDRESS, LENGTH = 1 << 0, 1 << 1


class ErrorHandler(c.Structure):
    """`ucp_err_handler_t`."""

    _fields_ = (("callback", OnError), ("argument", Pointer))


class EndpointParams(c.Structure):
    """`ucp_ep_params_t`."""

    _fields_ = (
        ("field_mask", c.c_uint64),
        ("address", c.c_char_p),
        ("error_mode", c.c_int),
        ("error_handler", ErrorHandler),
        ("user_data", Pointer),
        ("flags", c.c_uint),
        ("sockaddr", Pointer * 2),
        ("connection_request", Pointer),
        ("name", c.c_char_p),
        ("local_sockaddr", Pointer * 2),
        LATER,
    )
    ADDRESS, ERROR_MODE, ERROR_HANDLER = 1 << 0, 1 << 1, 1 << 2


class RequestParams(c.Structure):
    """`ucp_request_param_t`."""

    _fields_ = (
        ("mask", c.c_uint32),
        ("flags", c.c_uint32),
        ("request", Pointer),
        ("callback", Pointer),
        ("datatype", c.c_uint64),
        ("user_data", Pointer),
        ("reply_buffer", Pointer),
        ("memory_type", c.c_int),
        ("received", Pointer),
        ("memory", Pointer),
        LATER,
    )
    FLAGS = 1 << 4
    FORCE = 1


TO_POINTER = c.POINTER(Pointer)
FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "ucp_get_version": (None, [c.POINTER(c.c_uint)] * 3),
    "ucp_config_read": (Status, [c.c_char_p, c.c_char_p, TO_POINTER]),
    "ucp_config_modify": (Status, [Pointer, c.c_char_p, c.c_char_p]),
    "ucp_config_release": (None, [Pointer]),
    "ucp_init_version": (Status, [c.c_uint, c.c_uint, Pointer, Pointer, TO_POINTER]),
    "ucp_cleanup": (None, [Pointer]),
    "ucp_mem_map": (Status, [Pointer, Pointer, TO_POINTER]),
    "ucp_mem_unmap": (Status, [Pointer, Pointer]),
    "ucp_rkey_pack": (Status, [Pointer, Pointer, TO_POINTER, c.POINTER(c.c_size_t)]),
    "ucp_rkey_buffer_release": (None, [Pointer]),
    "ucp_worker_create": (Status, [Pointer, Pointer, TO_POINTER]),
    "ucp_worker_destroy": (None, [Pointer]),
    "ucp_worker_get_address": (Status, [Pointer, TO_POINTER, c.POINTER(c.c_size_t)]),
    "ucp_worker_release_address": (None, [Pointer, Pointer]),
    "ucp_worker_progress": (c.c_uint, [Pointer]),
    "ucp_worker_get_efd": (Status, [Pointer, c.POINTER(c.c_int)]),
    "ucp_worker_arm": (Status, [Pointer]),
    "ucp_ep_create": (Status, [Pointer, Pointer, TO_POINTER]),
    "ucp_ep_close_nbx": (Pointer, [Pointer, Pointer]),
    "ucp_ep_flush_nbx": (Pointer, [Pointer, Pointer]),
    "ucp_ep_rkey_unpack": (Status, [Pointer, c.c_char_p, TO_POINTER]),
    "ucp_rkey_destroy": (None, [Pointer]),
    "ucp_put_nbx": (Pointer, [Pointer, Pointer, c.c_size_t, c.c_uint64, Pointer, Pointer]),
    "ucp_get_nbx": (Pointer, [Pointer, Pointer, c.c_size_t, c.c_uint64, Pointer, Pointer]),
    "ucp_request_check_status": (Status, [Pointer]),
    "ucp_request_free": (None, [Pointer]),
}


class Library:
    """The loaded library, and one lock for the calls that touch what its contexts share."""

    def __init__(self) -> None:
        # read when the library is loaded: no signal handlers in a Python process, and no lines on standard output
        os.environ.setdefault("UCX_HANDLE_ERRORS", "none")
        os.environ.setdefault("UCX_LOG_LEVEL", "fatal")
        try:
            loaded = c.CDLL(LIBRARY)
            for name, (result, arguments) in FUNCTIONS.items():
                function = getattr(loaded, name)
                function.restype, function.argtypes = result, arguments
            self.text = c.CDLL("libucs.so.0").ucs_status_string
        except (OSError, AttributeError) as error:
            raise UcxError("UCX cannot be loaded", NO_ELEMENT, f"{error} (HINT: {INSTALL})") from None
        self.text.restype, self.text.argtypes = c.c_char_p, [Status]
        self.call: Any = loaded
        self.mutex = threading.Lock()
        numbers = [c.c_uint() for _ in range(3)]
        self.call.ucp_get_version(*numbers)
        self.version = tuple(number.value for number in numbers)
        if self.version < API:
            raise UcxError(f"UCX {'.'.join(map(str, self.version))}", NO_ELEMENT, "1.13 or newer is needed")

    def check(self, what: str, status: int) -> None:
        """Raise UcxError if `status` is not success."""
        if status != OK:
            raise UcxError(what, status, self.text(status).decode())


_library: Library | None = None
_loading = threading.Lock()


def library() -> Library:
    """Return the library, which is loaded on first use.

    Returns:
        The library; the same object every time.

    Raises:
        UcxError: it is not there, or too old.
    """
    global _library
    with _loading:
        if _library is None:
            _library = Library()
        return _library
