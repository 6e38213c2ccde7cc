"""`modum data`: real data sets to train on."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(name="data", help="Get real data sets to train on.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `data` a group while it has one command alone."""


@app.command("fashion-mnist")
def fashion_mnist(
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Where to put the files. Default: modum/fashion-mnist in $XDG_CACHE_HOME, or in ~/.cache.",
        ),
    ] = None,
) -> None:
    """Get Fashion-MNIST: 70,000 pictures of clothes in ten classes, 31 MB.

    Takes the files of Debian's package dataset-fashion-mnist where that is installed, else downloads that
    package without installing it, else downloads from the data set's own site. The contents are checked;
    what is there and whole is left alone. In Python: modum.data.fashion_mnist().
    """
    from modum.data import default_directory
    from modum.data import fashion_mnist as load

    directory = default_directory() if into is None else into
    images = load(directory)
    print(f"{len(images.train_images)} training and {len(images.test_images)} test images in {directory}")
