"""Model files that others wrote, which lie beside the repository on some machines."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared(pattern: str) -> list[Path]:
    """The files that match `pattern`; the test that asks is skipped where there are none."""
    paths = sorted(SHARED.glob(pattern))
    if not paths:
        pytest.skip(f"../shared has no {pattern}")
    return paths
