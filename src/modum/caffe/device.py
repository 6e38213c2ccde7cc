"""Choose the GPUs that a command or program computes on."""

from __future__ import annotations

import torch

from modum.caffe.errors import CaffeError

__all__ = ["default_device", "describe", "parse_gpus", "set_device", "set_mode_cpu", "set_mode_gpu", "use"]

_chosen = [torch.device("cpu")]


def parse_gpus(text: str) -> list[int]:
    """Return the numbers of GPUs that a text names.

    Args:
        text: numbers as in `"0,2"`; `"all"` for all GPUs of this machine; empty for none.

    Returns:
        The numbers, in order.

    Raises:
        CaffeError: it is none of these, or there is no such GPU here.
    """
    if not text.strip():
        return []
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text.strip() == "all":
        if not here:
            raise CaffeError("--gpu all: PyTorch finds no GPU here\nHINT: leave --gpu out to compute on the CPU")
        return list(range(here))
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise CaffeError(f"--gpu {text}: give numbers, as in 0 or 0,1, or all") from None
    for number in numbers:
        if not 0 <= number < here:
            has = f"only {here} (from 0)" if here else "none"
            raise CaffeError(f"--gpu {text}: there is no GPU {number} here; PyTorch finds {has}")
    if len(set(numbers)) < len(numbers):
        raise CaffeError(f"--gpu {text}: a GPU is named twice")
    return numbers


def use(gpu: int | None) -> torch.device:
    """Prepare a GPU for nets whose batches all have one shape, or the CPU for None; return the device."""
    if gpu is None:
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.cuda.set_device(gpu)
    return torch.device("cuda", gpu)


def set_mode_cpu() -> None:
    """Make nets compute on the CPU, from now on."""
    _chosen[0] = torch.device("cpu")


def set_mode_gpu() -> None:
    """Make nets compute on the GPU of `set_device`, from now on."""
    _chosen[0] = use(_chosen[0].index or 0)


def set_device(gpu: int) -> None:
    """Make nets compute on this GPU, from now on."""
    _chosen[0] = use(gpu)


def default_device() -> torch.device:
    """Return the device of nets that are made without one."""
    return _chosen[0]


def describe(gpu: int) -> list[str]:
    """Return the lines that Caffe's `device_query` shows for a GPU."""
    found = torch.cuda.get_device_properties(gpu)
    return [
        f"Device id:                     {gpu}",
        f"Major revision number:         {found.major}",
        f"Minor revision number:         {found.minor}",
        f"Name:                          {found.name}",
        f"Total global memory:           {found.total_memory}",
        f"Number of multiprocessors:     {found.multi_processor_count}",
    ]
