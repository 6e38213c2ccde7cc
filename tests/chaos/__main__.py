"""Attacks real servers and clients, and says whether the box kept its word.

python -m tests.chaos --operations 10000 --faults 500 --seed 1
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import Storm


def main() -> int:
    """Make a storm, and print how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=10_000, help="how many must be acknowledged (10000)")
    parser.add_argument("--faults", type=int, default=500, help="how many must be made (500)")
    parser.add_argument("--seed", type=int, default=0, help="of what is done, when, and to whom (0)")
    parser.add_argument("--servers", type=int, default=2, help="how many memory servers (2)")
    parser.add_argument("--clients", type=int, default=5, help="how many clients at one time (5)")
    choice = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modum-chaos-"))

    def progress(operations: int, faults: int) -> None:
        if sys.stderr.isatty():
            print(
                f"\r{operations} of {choice.operations} operations, {faults} of {choice.faults} faults ",
                end="",
                file=sys.stderr,
            )

    with Storm(folder, choice.seed, choice.servers, choice.clients) as storm:
        result = storm.run(choice.operations, choice.faults, progress)
    history = result.history
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(
        f"{history.acknowledged or storm.acknowledged} operations acknowledged, {history.refused} refused,"
        f" {result.faults.total()} faults, {bool(result.wrong):d} wrong, in {result.seconds:.0f} s"
    )
    for counts in (history.kinds, result.faults):
        print("  " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    if result.wrong:
        print(f"WRONG: {result.wrong}\n  journals of all clients: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
