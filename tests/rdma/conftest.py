"""Only the emulated machine has what `test_devices` needs; `test_in_guest` runs it there, or says why not."""

from tests.box.conftest import EMULATED

collect_ignore = [] if EMULATED else ["test_devices.py"]
