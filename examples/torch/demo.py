"""Train the same network on the same number of samples with four workers in two groups, and with one worker.

Runs fashion_mnist.py under ``modum run`` twice, prints both test accuracies, and draws demo.png.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from modum.data import DataError, fashion_mnist

HERE = Path(__file__).resolve().parent
PLOT = HERE.parents[1] / "demo.png"
POINTS = 45
"""Points of a loss curve: each is the mean over a 45th of the samples."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one training left in its log."""

    label: str
    log: list[dict[str, Any]]

    @property
    def accuracy(self) -> float:
        """Of the final shared weights on the test images, in percent."""
        return float(self.log[-1]["accuracy"])

    @property
    def seconds(self) -> float:
        return float(self.log[-1]["seconds"])

    @property
    def total(self) -> int:
        """Samples trained on, by all workers."""
        return int(self.log[-1]["samples"])

    def curve(self, what: str) -> tuple[list[float], list[float]]:
        """Samples of the whole job, in thousands, and the values that were logged there."""
        entries = [entry for entry in self.log if what in entry]
        return [entry["samples"] / 1000 for entry in entries], [entry[what] for entry in entries]

    def smooth_losses(self) -> tuple[list[float], list[float]]:
        """The loss curve, averaged over `POINTS` equal parts of the samples."""
        samples, losses = (np.array(values) for values in self.curve("loss"))
        part = np.minimum(samples * 1000 * POINTS // self.total, POINTS - 1)
        parts = np.unique(part)
        return (
            [float(samples[part == number].mean()) for number in parts],
            [float(losses[part == number].mean()) for number in parts],
        )


def train(label: str, *options: str) -> Run:
    """Train once, with progress on the terminal; ends this program if the training fails."""
    print(f"\n{label}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "log.json")
        command = [sys.executable, "-m", "modum", "run", *options, str(HERE / "fashion_mnist.py"), "--log", str(log)]
        status = subprocess.run([*command, *sys.argv[1:]], check=False).returncode
        if status:
            sys.exit(status)
        return Run(label=label, log=json.loads(log.read_text()))


def draw(runs: list[Run]) -> None:
    """Losses and accuracies of the runs, beside each other."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for run, colour in zip(runs, ("tab:blue", "tab:orange"), strict=True):
        left.plot(*run.smooth_losses(), color=colour, label=run.label)
        right.plot(*run.curve("accuracy"), "o-", color=colour, label=f"{run.label}: {run.accuracy:.2f} %")
    left.set(ylabel="training loss (cross entropy, nats)", yscale="log", title="Training loss of the first worker")
    left.yaxis.set_minor_formatter("{x:.1f}")
    left.yaxis.set_major_formatter("{x:.1f}")
    right.set(ylabel="test accuracy (%)", ylim=(80, 94), title="Test accuracy of the shared weights")
    for axes in (left, right):
        axes.set_xlabel("samples trained on, by all workers (thousands)")
        axes.grid(alpha=0.3, which="both")
    left.legend()
    right.legend(loc="lower right")
    figure.suptitle("Fashion-MNIST, 60,000 images: two asynchronous groups of two workers, and a single worker")
    figure.savefig(PLOT, dpi=120)


def main() -> None:
    try:
        fashion_mnist()
    except DataError as error:
        sys.exit(str(error))
    runs = [
        train("4 workers in 2 groups of 2", "-n", "4", "--group-size", "2"),
        train("1 worker", "-n", "1"),
    ]
    draw(runs)
    print(f"\n{'after ' + format(runs[0].total, ',') + ' samples':28}  test accuracy   seconds")
    for run in runs:
        print(f"{run.label:28}  {run.accuracy:11.2f} %   {run.seconds:7.0f}")
    print(f"\nThe curves are in {PLOT}")


if __name__ == "__main__":
    main()
