"""The binding of UCX: its structures lie in memory as those of C. What it does is tested in tests/rdma."""

import ctypes

import pytest

from modum.box.rdma import binding

# as printed by a C program that was compiled against ucp.h of 1.13, and of 1.22: they are the same
OFFSETS: dict[type[ctypes.Structure], dict[str, int]] = {
    binding.Params: {"features": 8, "mt_workers_shared": 48, "estimated_num_eps": 56, "name": 72, "later": 80},
    binding.WorkerParams: {"thread_mode": 8, "later": 200},
    binding.MapParams: {"address": 8, "length": 16, "flags": 24, "memory_type": 32, "later": 36},
    binding.EndpointParams: {
        "address": 8,
        "error_mode": 16,
        "error_handler": 24,
        "user_data": 40,
        "flags": 48,
        "sockaddr": 56,
        "local_sockaddr": 88,
    },
    binding.RequestParams: {"flags": 4, "callback": 16, "datatype": 24, "memory_type": 48, "memory": 64, "later": 72},
}


@pytest.mark.parametrize("structure", OFFSETS, ids=lambda each: each.__name__)
def test_structures_are_laid_out_as_in_c(structure: type[ctypes.Structure]) -> None:
    assert {name: getattr(structure, name).offset for name in OFFSETS[structure]} == OFFSETS[structure]
