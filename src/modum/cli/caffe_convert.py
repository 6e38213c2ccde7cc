"""`modum caffe convert`: make databases and mean files for Caffe's nets."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    name="convert",
    no_args_is_help=True,
    help="Make the databases (LMDB) and mean files that Caffe's nets read.",
)


class Backend(StrEnum):
    """The kinds of database."""

    LMDB = "lmdb"
    LEVELDB = "leveldb"


Database = Annotated[Path, typer.Argument(metavar="DATABASE", help="The LMDB to make: a folder that is not there yet.")]
Mean = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write the mean of all images to this file, for mean_file."),
]


@app.command()
def idx(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="IDX file of images, as it is or compressed (.gz).")],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="IDX file of their labels.")],
    database: Database,
    mean: Mean = None,
) -> None:
    """Convert IDX files, such as those of MNIST and Fashion-MNIST.

    Makes the same records as Caffe's convert_mnist_data: keys 00000000, 00000001, ..., one channel.

    Example: modum caffe convert idx train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz mnist_train_lmdb
    """
    from modum.caffe.convert import convert_idx

    with _progress(f"{database}") as report:
        number = convert_idx(images, labels, database, report=report)
    _finish(number, database, mean)


@app.command()
def cifar(
    batches: Annotated[
        list[Path],
        typer.Argument(metavar="BATCH... DATABASE", help="CIFAR-10's binary batches, then the LMDB to make."),
    ],
    mean: Mean = None,
) -> None:
    """Convert CIFAR-10's binary batches, in the order given.

    Makes the same records as Caffe's convert_cifar_data: keys 00000, 00001, ..., three channels.

    Example: modum caffe convert cifar data_batch_{1,2,3,4,5}.bin cifar10_train_lmdb --mean mean.binaryproto
    """
    from modum.caffe.convert import convert_cifar

    *files, database = batches
    if not files:
        raise typer.BadParameter("give at least one batch and, last, the database")
    with _progress(f"{database}") as report:
        number = convert_cifar(files, database, report=report)
    _finish(number, database, mean)


@app.command()
def images(
    root: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the paths in the list begin.")],
    source: Annotated[
        Path, typer.Argument(metavar="LIST", help="Text file: on each line a path, a space and a whole number.")
    ],
    database: Database,
    resize_height: Annotated[
        int, typer.Option("--resize-height", "--resize_height", min=0, help="Height to resize to; 0: as it is.")
    ] = 0,
    resize_width: Annotated[
        int, typer.Option("--resize-width", "--resize_width", min=0, help="Width to resize to; 0: as it is.")
    ] = 0,
    gray: Annotated[bool, typer.Option("--gray", help="One channel instead of three (blue, green, red).")] = False,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Store the images in random order.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of that order. Default: another one each time.")] = None,
    encoded: Annotated[
        bool,
        typer.Option("--encoded", help="Keep the images encoded: a smaller database, decoded in training."),
    ] = False,
    check_size: Annotated[
        bool, typer.Option("--check-size", "--check_size", help="Refuse images of different sizes.")
    ] = False,
    mean: Mean = None,
) -> None:
    """Convert a list of image files (JPEG, PNG, ...).

    Makes the same records as Caffe's convert_imageset: keys 00000000_path, three channels.

    Example: modum caffe convert images photos/ train.txt train_lmdb --resize-height 256 --resize-width 256 --shuffle
    """
    from modum.caffe.convert import convert_images

    if bool(resize_height) != bool(resize_width):
        raise typer.BadParameter("--resize-height and --resize-width go together")
    with _progress(f"{database}") as report:
        number = convert_images(
            root,
            source,
            database,
            size=(resize_height, resize_width) if resize_height else None,
            gray=gray,
            shuffle=shuffle,
            seed=seed,
            encoded=encoded,
            check_size=check_size,
            report=report,
        )
    _finish(number, database, mean)


@app.command()
def mean(
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help="The database whose images are averaged.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, such as mean.binaryproto.")],
    backend: Annotated[Backend, typer.Option(help="The kind of database.")] = Backend.LMDB,
) -> None:
    """Compute the mean image of a database, as Caffe's compute_image_mean does, for mean_file.

    Example: modum caffe convert mean cifar10_train_lmdb mean.binaryproto
    """
    _write_mean(database, file, backend.value.upper())


def _finish(number: int, database: Path, mean: Path | None) -> None:
    print(f"{number} records in {database}")
    if mean is not None:
        _write_mean(database, mean, "LMDB")


def _write_mean(database: Path, file: Path, backend: str) -> None:
    from modum.caffe.convert import mean_image

    with _progress(f"{file}") as report:
        average = mean_image(database, file, backend=backend, report=report)
    channels = ", ".join(f"{value:.4f}" for value in average.mean(axis=(1, 2)))
    print(f"mean of {' x '.join(map(str, average.shape))} in {file}; of each channel: {channels}")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on a terminal, and yield the function that moves it; elsewhere yield None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
