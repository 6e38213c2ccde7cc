"""The part of UCP that one-sided transfers need, bound by ctypes to the host's UCX (libucp.so.0, 1.13 or newer).

Nothing is loaded before `Context` is made. The structures are those of API 1.13; later versions only append fields,
and every call says by a mask which fields count, so that one binding serves all of them.

Nothing here is thread-safe but different workers may be used by different threads.
"""

import ctypes as c
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

LIBRARY: Final = "libucp.so.0"
INSTALL: Final = "apt-get install libucx0 ibverbs-providers, or dnf install ucx-ib rdma-core"
API: Final = (1, 13)  # what is asked for; the library must be at least as new
CLOSE_SECONDS: Final = 10.0  # longer than a queue pair tries to reach a dead peer

# What is set unless the user's UCX_* variables say otherwise. Reliable connections only: shared memory has no failure
# handling. With the default count of 7 a queue pair tries for ever; so does the wire-up for five minutes.
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

_OK: Final = 0
_IN_PROGRESS: Final = 1
_NO_ELEMENT: Final = -12
_BUSY: Final = -15
_LAST_ERROR: Final = -100  # a pointer to a request that is really a status lies within these of the end of memory
_WRAP: Final = 1 << 64
_FEATURE_RMA: Final = 1 << 1
_FEATURE_WAKEUP: Final = 1 << 4
_THREADS_IN_TURN: Final = 1  # UCS_THREAD_MODE_SERIALIZED
_FAIL_WITH_PEER: Final = 1  # UCP_ERR_HANDLING_MODE_PEER

_Pointer = c.c_void_p
_Status = c.c_int8  # ucs_status_t is a packed enum: one byte
_LATER: Final = ("later", c.c_char * 128)  # what newer versions append
_OnError = c.CFUNCTYPE(None, _Pointer, _Pointer, _Status)


class UcxError(Exception):
    """A call of UCX failed; `status` is its number."""

    def __init__(self, what: str, status: int, text: str) -> None:
        super().__init__(f"{what}: {text}")
        self.status = status


class _Params(c.Structure):
    _fields_ = (
        ("field_mask", c.c_uint64),
        ("features", c.c_uint64),
        ("request_size", c.c_size_t),
        ("request_init", _Pointer),
        ("request_cleanup", _Pointer),
        ("tag_sender_mask", c.c_uint64),
        ("mt_workers_shared", c.c_int),
        ("estimated_num_eps", c.c_size_t),
        ("estimated_num_ppn", c.c_size_t),
        ("name", c.c_char_p),
        _LATER,
    )
    FEATURES, SHARED = 1 << 0, 1 << 5


class _WorkerParams(c.Structure):
    _fields_ = (("field_mask", c.c_uint64), ("thread_mode", c.c_int), ("rest", c.c_char * 188), _LATER)
    THREAD_MODE = 1 << 0


class _MapParams(c.Structure):
    _fields_ = (
        ("field_mask", c.c_uint64),
        ("address", _Pointer),
        ("length", c.c_size_t),
        ("flags", c.c_uint),
        ("protection", c.c_uint),
        ("memory_type", c.c_int),
        _LATER,
    )
    ADDRESS, LENGTH = 1 << 0, 1 << 1


class _ErrorHandler(c.Structure):
    _fields_ = (("callback", _OnError), ("argument", _Pointer))


class _EndpointParams(c.Structure):
    _fields_ = (
        ("field_mask", c.c_uint64),
        ("address", c.c_char_p),
        ("error_mode", c.c_int),
        ("error_handler", _ErrorHandler),
        ("user_data", _Pointer),
        ("flags", c.c_uint),
        ("sockaddr", _Pointer * 2),
        ("connection_request", _Pointer),
        ("name", c.c_char_p),
        ("local_sockaddr", _Pointer * 2),
        _LATER,
    )
    ADDRESS, ERROR_MODE, ERROR_HANDLER = 1 << 0, 1 << 1, 1 << 2


class _RequestParams(c.Structure):
    _fields_ = (
        ("mask", c.c_uint32),
        ("flags", c.c_uint32),
        ("request", _Pointer),
        ("callback", _Pointer),
        ("datatype", c.c_uint64),
        ("user_data", _Pointer),
        ("reply_buffer", _Pointer),
        ("memory_type", c.c_int),
        ("received", _Pointer),
        ("memory", _Pointer),
        _LATER,
    )
    FLAGS = 1 << 4
    FORCE = 1


_TO_POINTER = c.POINTER(_Pointer)
_FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "ucp_get_version": (None, [c.POINTER(c.c_uint)] * 3),
    "ucp_config_read": (_Status, [c.c_char_p, c.c_char_p, _TO_POINTER]),
    "ucp_config_modify": (_Status, [_Pointer, c.c_char_p, c.c_char_p]),
    "ucp_config_release": (None, [_Pointer]),
    "ucp_init_version": (_Status, [c.c_uint, c.c_uint, _Pointer, _Pointer, _TO_POINTER]),
    "ucp_cleanup": (None, [_Pointer]),
    "ucp_mem_map": (_Status, [_Pointer, _Pointer, _TO_POINTER]),
    "ucp_mem_unmap": (_Status, [_Pointer, _Pointer]),
    "ucp_rkey_pack": (_Status, [_Pointer, _Pointer, _TO_POINTER, c.POINTER(c.c_size_t)]),
    "ucp_rkey_buffer_release": (None, [_Pointer]),
    "ucp_worker_create": (_Status, [_Pointer, _Pointer, _TO_POINTER]),
    "ucp_worker_destroy": (None, [_Pointer]),
    "ucp_worker_get_address": (_Status, [_Pointer, _TO_POINTER, c.POINTER(c.c_size_t)]),
    "ucp_worker_release_address": (None, [_Pointer, _Pointer]),
    "ucp_worker_progress": (c.c_uint, [_Pointer]),
    "ucp_worker_get_efd": (_Status, [_Pointer, c.POINTER(c.c_int)]),
    "ucp_worker_arm": (_Status, [_Pointer]),
    "ucp_ep_create": (_Status, [_Pointer, _Pointer, _TO_POINTER]),
    "ucp_ep_close_nbx": (_Pointer, [_Pointer, _Pointer]),
    "ucp_ep_flush_nbx": (_Pointer, [_Pointer, _Pointer]),
    "ucp_ep_rkey_unpack": (_Status, [_Pointer, c.c_char_p, _TO_POINTER]),
    "ucp_rkey_destroy": (None, [_Pointer]),
    "ucp_put_nbx": (_Pointer, [_Pointer, _Pointer, c.c_size_t, c.c_uint64, _Pointer, _Pointer]),
    "ucp_get_nbx": (_Pointer, [_Pointer, _Pointer, c.c_size_t, c.c_uint64, _Pointer, _Pointer]),
    "ucp_request_check_status": (_Status, [_Pointer]),
    "ucp_request_free": (None, [_Pointer]),
}


class _Library:
    """The loaded library, and one lock for the calls that touch what its contexts share."""

    def __init__(self) -> None:
        # read when the library is loaded: no signal handlers in a Python process, and no lines on standard output
        os.environ.setdefault("UCX_HANDLE_ERRORS", "none")
        os.environ.setdefault("UCX_LOG_LEVEL", "fatal")
        try:
            loaded = c.CDLL(LIBRARY)
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(loaded, name)
                function.restype, function.argtypes = result, arguments
            self.text = c.CDLL("libucs.so.0").ucs_status_string
        except (OSError, AttributeError) as error:
            raise UcxError("UCX cannot be loaded", _NO_ELEMENT, f"{error} (HINT: {INSTALL})") from None
        self.text.restype, self.text.argtypes = c.c_char_p, [_Status]
        self.call: Any = loaded
        self.mutex = threading.Lock()
        numbers = [c.c_uint() for _ in range(3)]
        self.call.ucp_get_version(*numbers)
        self.version = tuple(number.value for number in numbers)
        if self.version < API:
            raise UcxError(f"UCX {'.'.join(map(str, self.version))}", _NO_ELEMENT, "1.13 or newer is needed")

    def check(self, what: str, status: int) -> None:
        """Raise UcxError if `status` is not success."""
        if status != _OK:
            raise UcxError(what, status, self.text(status).decode())


_library: _Library | None = None
_loading = threading.Lock()


def library() -> _Library:
    """The library, loaded on first use.

    Raises:
        UcxError: it is not there, or too old.
    """
    global _library
    with _loading:
        if _library is None:
            _library = _Library()
        return _library


class Context:
    """UCX over one device.

    Args:
        device: as UCX names it: "mlx5_0:1".

    Raises:
        UcxError: UCX cannot be loaded, or cannot use the device.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.library = library()
        call, check = self.library.call, self.library.check
        configuration = _Pointer()
        check("ucp_config_read", call.ucp_config_read(None, None, c.byref(configuration)))
        try:
            for name, value in {"NET_DEVICES": device, **SETTINGS}.items():
                if name == "NET_DEVICES" or f"UCX_{name}" not in os.environ:
                    status = call.ucp_config_modify(configuration, name.encode(), value.encode())
                    if status != _NO_ELEMENT:  # a transport that this build does not have
                        check(f"UCX_{name}={value}", status)
            parameters = _Params(
                field_mask=_Params.FEATURES | _Params.SHARED,
                features=_FEATURE_RMA | _FEATURE_WAKEUP,
                mt_workers_shared=1,
            )
            self._handle = _Pointer()
            check(
                f"ucp_init with device {device}",
                call.ucp_init_version(*API, c.byref(parameters), configuration, c.byref(self._handle)),
            )
        finally:
            call.ucp_config_release(configuration)

    def register(self, address: int, nbytes: int) -> "Memory":
        """Register memory of this process; the caller keeps it mapped until the registration is closed.

        Whoever has its key can read and write it: UCX has no keys for reading only.
        """
        return Memory(self, self._handle, address, nbytes)

    def worker(self) -> "Worker":
        """A new worker."""
        return Worker(self, self._handle)

    def close(self) -> None:
        """Close it, after all that was made from it."""
        self.library.call.ucp_cleanup(self._handle)


class Memory:
    """A registration; made by `Context.register`."""

    def __init__(self, context: Context, handle: Any, address: int, nbytes: int) -> None:
        self.address = address
        self._library = context.library
        self._context = handle
        self._handle = _Pointer()
        parameters = _MapParams(field_mask=_MapParams.ADDRESS | _MapParams.LENGTH, address=address, length=nbytes)
        with self._library.mutex:
            status = self._library.call.ucp_mem_map(handle, c.byref(parameters), c.byref(self._handle))
        self._library.check(f"registration of {nbytes} bytes", status)

    def key(self) -> bytes:
        """What a remote end needs to reach it."""
        return _copied(
            self._library,
            lambda at, size: self._library.call.ucp_rkey_pack(self._context, self._handle, at, size),
            self._library.call.ucp_rkey_buffer_release,
        )

    def close(self) -> None:
        """From here on no remote end can reach the memory."""
        with self._library.mutex:
            self._library.check("ucp_mem_unmap", self._library.call.ucp_mem_unmap(self._context, self._handle))


class Worker:
    """What makes transfers go on; one for every connection."""

    def __init__(self, context: Context, handle: Any) -> None:
        self.library = context.library
        self._handle = _Pointer()
        parameters = _WorkerParams(field_mask=_WorkerParams.THREAD_MODE, thread_mode=_THREADS_IN_TURN)
        call, check = self.library.call, self.library.check
        with self.library.mutex:
            check("ucp_worker_create", call.ucp_worker_create(handle, c.byref(parameters), c.byref(self._handle)))
        self._progress = call.ucp_worker_progress
        descriptor = c.c_int()
        check("ucp_worker_get_efd", call.ucp_worker_get_efd(self._handle, c.byref(descriptor)))
        self._descriptor = descriptor.value

    def fileno(self) -> int:
        """A descriptor that becomes readable when an armed worker has something to do; it belongs to the worker."""
        return self._descriptor

    def address(self) -> bytes:
        """What a remote end needs to connect to it."""
        return _copied(
            self.library,
            lambda at, size: self.library.call.ucp_worker_get_address(self._handle, at, size),
            lambda at: self.library.call.ucp_worker_release_address(self._handle, at),
        )

    def progress(self) -> bool:
        """Go on; whether there was anything to do."""
        return bool(self._progress(self._handle))

    def arm(self) -> bool:
        """Go on until nothing is left; False if there is something to do again, and nobody may sleep on `fileno`.

        An armed worker was seen to miss a wake-up: a sleep must have a bound.
        """
        while self._progress(self._handle):
            pass
        status = self.library.call.ucp_worker_arm(self._handle)
        if status == _BUSY:
            return False
        self.library.check("ucp_worker_arm", status)
        return True

    def connect(self, address: bytes) -> "Endpoint":
        """An endpoint to the worker of that address."""
        return Endpoint(self, self._handle, address)

    def close(self) -> None:
        """Close it, after its endpoints."""
        with self.library.mutex:
            self.library.call.ucp_worker_destroy(self._handle)


class Request:
    """A transfer under way; keeps the memory that it uses."""

    def __init__(self, endpoint: "Endpoint", what: str, pointer: int | None, memory: object) -> None:
        self._endpoint = endpoint
        self._what = what
        self._memory = memory
        self._pointer = pointer or 0
        self._status = _IN_PROGRESS if self._pointer else _OK
        if self._pointer >= _WRAP + _LAST_ERROR:
            self._pointer, self._status = 0, self._pointer - _WRAP

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not."""
        if self._pointer:
            call = self._endpoint.worker.library.call
            status = call.ucp_request_check_status(self._pointer)
            if status == _IN_PROGRESS:
                return False
            call.ucp_request_free(self._pointer)
            self._pointer, self._status, self._memory = 0, status, None
        return True

    def done(self) -> bool:
        """Whether it has ended well.

        Raises:
            UcxError: it failed.
        """
        if not self.ended:
            return False
        self._endpoint.worker.library.check(self._what, self._status)
        return True


_endpoints: dict[int, "Endpoint"] = {}  # by the number that the error callback gets


def _fail(number: int | None, _handle: int | None, status: int) -> None:
    endpoint = _endpoints.get(number or 0)
    if endpoint is not None:
        endpoint.status = status


_on_error = _OnError(_fail)  # kept: UCX calls it as long as there are endpoints


class Endpoint:
    """One end of a connection; made by `Worker.connect`. After a failure `status` says which, and every call raises."""

    def __init__(self, worker: Worker, handle: Any, address: bytes) -> None:
        self.worker = worker
        self.status = _OK
        self._handle = _Pointer()
        self._requests: list[Request] = []
        self._keys: list[Any] = []
        self._plain = c.byref(_RequestParams())
        _endpoints[id(self)] = self
        parameters = _EndpointParams(
            field_mask=_EndpointParams.ADDRESS | _EndpointParams.ERROR_MODE | _EndpointParams.ERROR_HANDLER,
            address=address,
            error_mode=_FAIL_WITH_PEER,
            error_handler=_ErrorHandler(_on_error, id(self)),
        )
        call = worker.library.call
        with worker.library.mutex:
            status = call.ucp_ep_create(handle, c.byref(parameters), c.byref(self._handle))
        if status != _OK:
            del _endpoints[id(self)]
        worker.library.check("ucp_ep_create", status)

    def unpack(self, key: bytes) -> Any:
        """A key of the remote end's memory, for `put` and `get`."""
        unpacked = _Pointer()
        library = self.worker.library
        library.check("ucp_ep_rkey_unpack", library.call.ucp_ep_rkey_unpack(self._handle, key, c.byref(unpacked)))
        self._keys.append(unpacked)
        return unpacked

    def release(self, key: Any) -> None:
        """Let go of a key."""
        self._keys.remove(key)
        self.worker.library.call.ucp_rkey_destroy(key)

    def check(self) -> None:
        """Raise UcxError if the connection has failed."""
        self.worker.library.check("the connection", self.status)

    def put(self, memory: object, address: int, nbytes: int, remote: int, key: Any) -> Request:
        """Start to write local bytes to remote memory. It is there when a `flush` that began later has ended."""
        return self._start("put", self.worker.library.call.ucp_put_nbx, memory, address, nbytes, remote, key)

    def get(self, memory: object, address: int, nbytes: int, remote: int, key: Any) -> Request:
        """Start to read remote memory into local bytes, which are there when it has ended."""
        return self._start("get", self.worker.library.call.ucp_get_nbx, memory, address, nbytes, remote, key)

    def flush(self) -> Request:
        """Ends when all that was started before is done on both sides."""
        return self._start("flush", self.worker.library.call.ucp_ep_flush_nbx, None)

    def _start(self, what: str, function: Callable[..., Any], memory: object, *arguments: Any) -> Request:
        self.check()
        request = Request(self, what, function(self._handle, *arguments, self._plain), memory)
        self._requests = [each for each in self._requests if not each.ended]
        self._requests.append(request)
        return request

    def close(self) -> bool:
        """Wait for what is under way and close; False if that did not end, and the worker must be left alone.

        A dead peer is noticed by the retries that are set above, so this takes seconds at most.
        """
        library, deadline = self.worker.library, time.monotonic() + CLOSE_SECONDS
        if not self._settle(deadline):
            return False
        for key in self._keys:
            library.call.ucp_rkey_destroy(key)
        # to force a healthy endpoint was seen to end the process
        mask = _RequestParams.FLAGS if self.status != _OK else 0
        parameters = c.byref(_RequestParams(mask=mask, flags=_RequestParams.FORCE if mask else 0))
        self._requests.append(Request(self, "close", library.call.ucp_ep_close_nbx(self._handle, parameters), None))
        settled = self._settle(deadline)
        if settled:
            del _endpoints[id(self)]
        return settled

    def _settle(self, deadline: float) -> bool:
        """Whether everything under way has ended before the deadline."""
        while not all(request.ended for request in self._requests):
            if not self.worker.progress():
                if time.monotonic() > deadline:
                    return False
                time.sleep(1e-4)
        return True


def _copied(library: _Library, ask: Callable[[Any, Any], int], release: Callable[[Any], None]) -> bytes:
    """Bytes that UCX hands out, copied; then its own are released."""
    at, size = _Pointer(), c.c_size_t()
    library.check("UCX", ask(c.byref(at), c.byref(size)))
    try:
        return c.string_at(at, size.value)
    finally:
        release(at)
