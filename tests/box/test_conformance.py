"""Every transport keeps the contract, with one server and with several; the suite notices one that does not."""

from typing import Any

import numpy as np
import pytest
from tests.box.conftest import AVAILABLE, SCALE

from modum.box import TRANSPORTS, Box, Server
from modum.box.protocol.frames import Op
from modum.box.protocol.limits import CHUNK
from modum.box.transport import Work
from modum.box.transport.tcp import TcpTransport
from modum.errors import TransportError
from modum.testing import check_transport
from modum.testing.transport import CHECKS, QUICK, Scale, fresh_box, whole_numbers

FLOATS = CHUNK // 4  # elements of float32 in a chunk


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize(
    ("transport", "servers"),
    [pytest.param(name, count, id=f"{name}-{count}") for name in AVAILABLE for count in (1, 3)],
)
def test_every_transport_keeps_the_contract(transport: str, servers: int, check: Any) -> None:
    with fresh_box(transport, servers) as box:
        check(box, SCALE)


def test_bfloat16_rounds_to_nearest_even_once(box: Box) -> None:
    import torch

    x = torch.randn(FLOATS + 3, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    g = torch.randn(FLOATS + 3, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    buffer = box.create("b", x.numel(), "bfloat16")
    buffer.write(g.view(torch.uint16).numpy())
    d = (torch.tensor(0.3) * (x.float() - g.float())).to(torch.bfloat16)
    moved = x.clone()
    buffer.exchange(moved.view(torch.uint16).numpy(), 0.3)
    expected = (g.float() + d.float()).to(torch.bfloat16)
    assert torch.equal(moved, (x.float() - d.float()).to(torch.bfloat16))
    np.testing.assert_array_equal(buffer.read(), expected.view(torch.uint16).numpy())
    buffer.add(x.view(torch.uint16).numpy(), 2.0)
    expected = (expected.float() + 2.0 * x.float()).to(torch.bfloat16)
    np.testing.assert_array_equal(buffer.read(), expected.view(torch.uint16).numpy())


class Stranger(TcpTransport):
    """A transport that is in no registry."""

    name = "stranger"


class Forgetful(Stranger):
    """Does every second add only."""

    name = "forgetful"
    adds = 0

    def run(self, work: Work) -> None:
        if work.op is Op.ADD:
            self.adds += 1
            if self.adds % 2:
                return
        super().run(work)


class Nowhere(Stranger):
    """A transport that no machine has."""

    name = "nowhere"

    @classmethod
    def why_not(cls, welcome: object = None) -> str | None:
        return "there is no such device"


def test_a_strangers_transport_is_checked_and_not_kept() -> None:
    check_transport(Stranger, servers=[1], scale=QUICK)
    assert Stranger.name not in TRANSPORTS


def test_a_transport_that_breaks_the_contract_is_told_where() -> None:
    with pytest.raises(AssertionError, match=r"x - 3 x in float32: .* elements differ") as told:
        check_transport(Forgetful, scale=Scale(1000, 2))
    assert "check_adds_accumulate of transport 'forgetful', 1 server(s)" in told.value.__notes__


def test_a_transport_that_cannot_be_used_here_is_an_error() -> None:
    with pytest.raises(TransportError, match="transport 'nowhere' cannot be used here: there is no such device"):
        check_transport(Nowhere)


def test_more_than_four_gibibytes_are_addressed() -> None:
    size = (4 << 30) // 4 + 2 * FLOATS  # elements; only what is touched takes memory
    with Server(memory=6 << 30) as server:
        for transport in ("local", "tcp"):
            with Box.connect(server.address, transport=transport, timeout=10) as box:
                buffer = box.create(transport, size)
                x = whole_numbers(FLOATS + 5)
                for offset in (0, (4 << 30) // 4 - 3, size - x.size):
                    buffer.add(x, offset=offset)
                    np.testing.assert_array_equal(buffer.read(offset=offset, count=x.size), x)
                    buffer.scale(0, offset=offset, count=x.size)
                box.delete(transport)
