"""The examples do what they say, at a small size."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from modum.box import Box
from modum.data import DataError, shakespeare
from tests.torch.jobs import run_job

EXAMPLES = Path(__file__).parents[2] / "examples" / "torch"
SMALL = """
    --samples=512 --learning-rate=0.02 --batch-size=16 --length=16 --width=16 --layers=1 --heads=2 --test=2000
    --evaluations=1 --bf16
"""


def test_a_gpt_learns_with_groups_accumulation_and_mixed_precision(connect: Callable[[], Box]) -> None:
    try:
        shakespeare()
    except DataError as error:
        pytest.skip(f"no source of Shakespeare is within reach: {error}")
    (server,) = connect().servers
    first, *others = run_job(EXAMPLES / "gpt.py", *SMALL.split(), servers=server, workers=2, group_size=2)
    losses = [float(found) for found in re.findall(r"test loss (\d\.\d+)", first)]
    assert len(losses) == 2
    assert losses[-1] < 4.15  # by chance, 66 characters: ln 66 = 4.19
    assert "after 512 samples" in first
    assert others == [""]
