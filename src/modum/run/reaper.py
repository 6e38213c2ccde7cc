"""Kill the workers' process groups if the launcher dies, even by SIGKILL, without having done so.

The launcher runs this file as a script and tells it on standard input, one line each, the process groups that
it started (`123`) and those that it has cleared away (`-123`). The end of that input is the end of the
launcher. Only the standard library is imported, to keep this process small and quick to start.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Read process groups from standard input, `-group` when one has ended, and kill the others at its end."""
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line)
        if group > 0:
            groups.add(group)
        else:
            groups.discard(-group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
