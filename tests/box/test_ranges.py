"""Every operation on any range, with one server and with several, over every transport."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.box.conftest import MANY

from modum.box import Box
from modum.box.protocol.limits import STRIPE
from modum.testing.transport import whole_numbers


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_can_be_read_written_added_and_exchanged(box: Box, data: st.DataObject) -> None:
    if not any(info.name == "b" for info in box.list()):
        box.create("b", MANY)
    buffer = box.open("b")
    start = data.draw(st.integers(0, MANY - 1))
    count = data.draw(st.integers(1, MANY - start))
    before = buffer.read()
    x = whole_numbers(count, data.draw(st.integers(0, 9)))
    match data.draw(st.sampled_from(["write", "add", "exchange", "read"])):
        case "write":
            buffer.write(x, offset=start)
            before[start : start + count] = x
        case "add":
            buffer.add(x, 2, offset=start)
            before[start : start + count] += 2 * x
        case "exchange":
            d = np.float32(0.5) * (x - before[start : start + count])
            buffer.exchange(x, 0.5, offset=start, leave="difference")
            np.testing.assert_array_equal(x, d)
            before[start : start + count] += d
        case _:
            np.testing.assert_array_equal(buffer.read(offset=start, count=count), before[start : start + count])
    np.testing.assert_array_equal(buffer.read(), before)
    buffer.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_two_buffers_are_combined_at_any_offsets(box: Box, data: st.DataObject) -> None:
    existing = {info.name for info in box.list()}
    target = box.open("target") if "target" in existing else box.create("target", MANY)
    source = box.open("source") if "source" in existing else box.create("source", MANY - 99)
    x, y = whole_numbers(MANY, 3), whole_numbers(MANY - 99, 4)
    target.write(x)
    source.write(y)
    # whole stripes apart, so that both sides of a piece lie on one server; or anywhere
    step = data.draw(st.sampled_from([1, STRIPE // 4]))
    here = data.draw(st.integers(0, (target.size - 1) // step)) * step
    there = data.draw(st.integers(0, (source.size - 1) // step)) * step
    count = data.draw(st.integers(1, min(target.size - here, source.size - there)))
    part, other = slice(here, here + count), slice(there, there + count)
    match data.draw(st.sampled_from(["copy", "scale", "axpy"])):
        case "copy":
            target.copy(source, offset=here, source_offset=there, count=count)
            x[part] = y[other]
        case "scale":
            target.scale(3, source, offset=here, source_offset=there, count=count)
            x[part] = 3 * y[other]
        case _:
            target.axpy(-2, source, offset=here, source_offset=there, count=count)
            x[part] -= 2 * y[other]
    np.testing.assert_array_equal(target.read(), x)
    np.testing.assert_array_equal(source.read(), y)
    target.close()
    source.close()
