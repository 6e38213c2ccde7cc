"""Download files with pooch: through the environment's proxies, tried twice, verified."""

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

__all__ = ["download"]

TIMEOUT: Final = 30.0
"""Seconds after which to give up a silent web site."""
RETRIES: Final = 1


class _Bar:
    """A file's line on a terminal, with the interface that pooch expects of a progress bar."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=None)

    @property
    def total(self) -> float | None:
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, nbytes: int) -> None:
        self._progress.update(self._task, total=nbytes or None)  # 0: the site does not say

    def update(self, nbytes: int) -> None:
        self._progress.advance(self._task, nbytes)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        pass


def download(url: str, path: Path, console: Console, *, checksum: str | None = None) -> None:
    """Download a file; it appears only once it is complete.

    Args:
        url: the file's http or https address.
        path: where to put it, in an existing directory.
        console: shows a progress bar if it is a terminal.
        checksum: `md5:` or `sha256:` and hexadecimal digits; None: do not check.

    Raises:
        OSError: the site cannot be reached, has no such file, or has another one.
    """
    import pooch  # takes longer to import than many a job takes to start

    pooch.get_logger().setLevel("WARNING")
    path.unlink(missing_ok=True)  # pooch would accept it as the file
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        # if compressed in transit, a .gz file would arrive decompressed
        get = pooch.HTTPDownloader(
            progressbar=_Bar(progress, path.name), timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}
        )
        one = pooch.create(
            path.parent, "", registry={path.name: checksum}, urls={path.name: url}, retry_if_failed=RETRIES
        )
        try:
            one.fetch(path.name, downloader=get)
        except ValueError as error:
            raise OSError(str(error)) from error
