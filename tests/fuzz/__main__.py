"""Feeds one reader of bytes from strangers with whatever libFuzzer makes up; needs atheris (`make fuzz`).

    python -m tests.fuzz frames -max_total_time=60     one target; the options are libFuzzer's
    python -m tests.fuzz frames FILE                   one input again

An input that a target raises for, other than the error that it promises, is left as crash-... in build/fuzz.
"""

import importlib
import logging
import sys
from pathlib import Path

import atheris

TARGETS = ("frames", "messages", "prototxt", "weights")
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Fuzz one target until time is up, or something is found."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} [OPTION...]")
    name = sys.argv[1]
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["modum", "tests.fuzz"]):
        target = importlib.import_module(f"tests.fuzz.{name}")
    found = ROOT / "build" / "fuzz"
    corpus = found / name
    corpus.mkdir(parents=True, exist_ok=True)
    # seeds stay, also where the coverage of compiled readers cannot tell them apart
    arguments = [sys.argv[0], "-keep_seed=1", f"-artifact_prefix={found}/{name}-", *sys.argv[2:]]
    if not any(Path(each).is_file() for each in sys.argv[2:]):
        # what is found out goes to the first folder, and the second is only read
        arguments += [str(corpus), str(ROOT / "tests" / "fuzz" / "corpus" / name)]
    atheris.Setup(arguments, target.take)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
