"""The default place of data sets on this machine."""

import os
from pathlib import Path

__all__ = ["default_directory"]


def default_directory(data_set: str) -> Path:
    """Return where a data set is kept by default: `modum/DATA_SET` in `$XDG_CACHE_HOME`, or in `~/.cache`.

    Args:
        data_set: its name as a folder, such as "fashion-mnist", "cifar-10" or "shakespeare".

    Returns:
        The directory, which need not exist.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modum" / data_set
