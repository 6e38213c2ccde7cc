"""One-sided transfers by the host's UCX: contexts, registered memory, workers, endpoints and requests.

Nothing is loaded before the first `Context` is made. Nothing here is thread-safe, but different workers may be used by
different threads.
"""

import ctypes as c
import os
import time
from collections.abc import Callable
from typing import Any, Final

from modum.box.rdma.binding import (
    API,
    BUSY,
    FAIL_WITH_PEER,
    FEATURE_RMA,
    FEATURE_WAKEUP,
    IN_PROGRESS,
    LAST_ERROR,
    NO_ELEMENT,
    OK,
    SETTINGS,
    THREADS_IN_TURN,
    WRAP,
    EndpointParams,
    ErrorHandler,
    Library,
    MapParams,
    OnError,
    Params,
    Pointer,
    RequestParams,
    WorkerParams,
    library,
)
from modum.waiting import Deadline

CLOSE_SECONDS: Final = 10.0
"""Longest time to close an endpoint: more than a queue pair tries to reach a dead peer."""


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
        configuration = Pointer()
        check("ucp_config_read", call.ucp_config_read(None, None, c.byref(configuration)))
        try:
            for name, value in {"NET_DEVICES": device, **SETTINGS}.items():
                if name == "NET_DEVICES" or f"UCX_{name}" not in os.environ:
                    status = call.ucp_config_modify(configuration, name.encode(), value.encode())
                    if status != NO_ELEMENT:  # a transport that this build does not have
                        check(f"UCX_{name}={value}", status)
            parameters = Params(
                field_mask=Params.FEATURES | Params.SHARED,
                features=FEATURE_RMA | FEATURE_WAKEUP,
                mt_workers_shared=1,
            )
            self._handle = Pointer()
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
        """Make a UCX worker, which moves the transfers of one connection on."""
        return Worker(self, self._handle)

    def close(self) -> None:
        """Close the context, after all that was made from it."""
        self.library.call.ucp_cleanup(self._handle)


class Memory:
    """A registration; made by `Context.register`."""

    def __init__(self, context: Context, handle: Any, address: int, nbytes: int) -> None:
        self.address = address
        self._library = context.library
        self._context = handle
        self._handle = Pointer()
        parameters = MapParams(field_mask=MapParams.ADDRESS | MapParams.LENGTH, address=address, length=nbytes)
        with self._library.mutex:
            status = self._library.call.ucp_mem_map(handle, c.byref(parameters), c.byref(self._handle))
        self._library.check(f"registration of {nbytes} bytes", status)

    def key(self) -> bytes:
        """Return what a remote end needs to reach the memory."""
        return _copied(
            self._library,
            lambda at, size: self._library.call.ucp_rkey_pack(self._context, self._handle, at, size),
            self._library.call.ucp_rkey_buffer_release,
        )

    def close(self) -> None:
        """End the registration: no remote end can reach the memory any more."""
        with self._library.mutex:
            self._library.check("ucp_mem_unmap", self._library.call.ucp_mem_unmap(self._context, self._handle))


class Worker:
    """A UCX worker, which moves transfers on: one for every connection; made by `Context.worker`."""

    def __init__(self, context: Context, handle: Any) -> None:
        self.library = context.library
        self._handle = Pointer()
        parameters = WorkerParams(field_mask=WorkerParams.THREAD_MODE, thread_mode=THREADS_IN_TURN)
        call, check = self.library.call, self.library.check
        with self.library.mutex:
            check("ucp_worker_create", call.ucp_worker_create(handle, c.byref(parameters), c.byref(self._handle)))
        self._progress = call.ucp_worker_progress
        descriptor = c.c_int()
        check("ucp_worker_get_efd", call.ucp_worker_get_efd(self._handle, c.byref(descriptor)))
        self._descriptor = descriptor.value

    def fileno(self) -> int:
        """Return the worker's descriptor, which becomes readable when it is armed and has something to do."""
        return self._descriptor

    def address(self) -> bytes:
        """Return what a remote end needs to connect to this worker."""
        return _copied(
            self.library,
            lambda at, size: self.library.call.ucp_worker_get_address(self._handle, at, size),
            lambda at: self.library.call.ucp_worker_release_address(self._handle, at),
        )

    def progress(self) -> bool:
        """Move transfers on, and return whether there was anything to do."""
        return bool(self._progress(self._handle))

    def arm(self) -> bool:
        """Move transfers on until nothing is left to do, and have `fileno` tell when there is again.

        An armed worker was seen to miss a wake-up: a sleep must have a bound.

        Returns:
            False if there is something to do already, and nobody may sleep on `fileno`.
        """
        while self._progress(self._handle):
            pass
        status = self.library.call.ucp_worker_arm(self._handle)
        if status == BUSY:
            return False
        self.library.check("ucp_worker_arm", status)
        return True

    def connect(self, address: bytes) -> "Endpoint":
        """Make an endpoint to the worker of that address."""
        return Endpoint(self, self._handle, address)

    def close(self) -> None:
        """Close the worker, after its endpoints."""
        with self.library.mutex:
            self.library.call.ucp_worker_destroy(self._handle)


class Request:
    """A transfer under way, which keeps the memory that it uses."""

    def __init__(self, endpoint: "Endpoint", what: str, pointer: int | None, memory: object) -> None:
        self._endpoint = endpoint
        self._what = what
        self._memory = memory
        self._pointer = pointer or 0
        self._status = IN_PROGRESS if self._pointer else OK
        if self._pointer >= WRAP + LAST_ERROR:
            self._pointer, self._status = 0, self._pointer - WRAP

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not."""
        if self._pointer:
            call = self._endpoint.worker.library.call
            status = call.ucp_request_check_status(self._pointer)
            if status == IN_PROGRESS:
                return False
            call.ucp_request_free(self._pointer)
            self._pointer, self._status, self._memory = 0, status, None
        return True

    def done(self) -> bool:
        """Return whether it has ended well.

        Returns:
            Whether it has ended.

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


_on_error = OnError(_fail)  # kept: UCX calls it as long as there are endpoints


class Endpoint:
    """One end of a connection; made by `Worker.connect`. After a failure `status` says which, and every call raises."""

    def __init__(self, worker: Worker, handle: Any, address: bytes) -> None:
        self.worker = worker
        self.status = OK
        self._handle = Pointer()
        self._requests: list[Request] = []
        self._keys: list[Any] = []
        self._plain = c.byref(RequestParams())
        _endpoints[id(self)] = self
        parameters = EndpointParams(
            field_mask=EndpointParams.ADDRESS | EndpointParams.ERROR_MODE | EndpointParams.ERROR_HANDLER,
            address=address,
            error_mode=FAIL_WITH_PEER,
            error_handler=ErrorHandler(_on_error, id(self)),
        )
        call = worker.library.call
        with worker.library.mutex:
            status = call.ucp_ep_create(handle, c.byref(parameters), c.byref(self._handle))
        if status != OK:
            del _endpoints[id(self)]
        worker.library.check("ucp_ep_create", status)

    def unpack(self, key: bytes) -> Any:
        """Return a key of the remote end's memory, for `put` and `get`."""
        unpacked = Pointer()
        library = self.worker.library
        library.check("ucp_ep_rkey_unpack", library.call.ucp_ep_rkey_unpack(self._handle, key, c.byref(unpacked)))
        self._keys.append(unpacked)
        return unpacked

    def release(self, key: Any) -> None:
        """Release a key."""
        self._keys.remove(key)
        self.worker.library.call.ucp_rkey_destroy(key)

    def check(self) -> None:
        """Raise UcxError if the connection has failed."""
        self.worker.library.check("the connection", self.status)

    def put(self, memory: object, address: int, nbytes: int, remote: int, key: Any) -> Request:
        """Start to write local bytes to remote memory. They are there when a `flush` that began later has ended."""
        return self._start("put", self.worker.library.call.ucp_put_nbx, memory, address, nbytes, remote, key)

    def get(self, memory: object, address: int, nbytes: int, remote: int, key: Any) -> Request:
        """Start to read remote memory into local bytes, which are there when it has ended."""
        return self._start("get", self.worker.library.call.ucp_get_nbx, memory, address, nbytes, remote, key)

    def flush(self) -> Request:
        """Start a request that ends when all that was started before is done on both sides."""
        return self._start("flush", self.worker.library.call.ucp_ep_flush_nbx, None)

    def _start(self, what: str, function: Callable[..., Any], memory: object, *arguments: Any) -> Request:
        self.check()
        request = Request(self, what, function(self._handle, *arguments, self._plain), memory)
        self._requests = [each for each in self._requests if not each.ended]
        self._requests.append(request)
        return request

    def close(self) -> bool:
        """Wait for what is under way, and close.

        A dead peer is noticed by the retries of `SETTINGS`, so this takes seconds at most.

        Returns:
            False if something did not end, and the worker must be left alone.
        """
        library, deadline = self.worker.library, Deadline(CLOSE_SECONDS)
        if not self._settle(deadline):
            return False
        for key in self._keys:
            library.call.ucp_rkey_destroy(key)
        # to force a healthy endpoint was seen to end the process
        mask = RequestParams.FLAGS if self.status != OK else 0
        parameters = c.byref(RequestParams(mask=mask, flags=RequestParams.FORCE if mask else 0))
        self._requests.append(Request(self, "close", library.call.ucp_ep_close_nbx(self._handle, parameters), None))
        settled = self._settle(deadline)
        if settled:
            del _endpoints[id(self)]
        return settled

    def _settle(self, deadline: Deadline) -> bool:
        """Wait for everything under way, and return whether it has ended before the deadline."""
        while not all(request.ended for request in self._requests):
            if not self.worker.progress():
                if deadline.passed:
                    return False
                time.sleep(1e-4)
        return True


def _copied(library: Library, ask: Callable[[Any, Any], int], release: Callable[[Any], None]) -> bytes:
    """Return a copy of bytes that UCX hands out, and release its own."""
    at, size = Pointer(), c.c_size_t()
    library.check("UCX", ask(c.byref(at), c.byref(size)))
    try:
        return c.string_at(at, size.value)
    finally:
        release(at)
