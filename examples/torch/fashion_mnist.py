"""Train a small network on Fashion-MNIST, alone or with many workers: the script is the same.

python examples/torch/fashion_mnist.py
modum run -n 4 --group-size 2 examples/torch/fashion_mnist.py
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import modum
from modum.data import fashion_mnist
from modum.torch import Averager

EVALUATIONS = 10


def network() -> nn.Module:
    """Two convolutions and two dense layers: 207,000 parameters."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def pictures(images: Tensor) -> Tensor:
    """Bytes [n, 28, 28] as floats [n, 1, 28, 28] with mean 0 and deviation 1."""
    return (images.unsqueeze(1).float() / 255 - 0.286) / 0.353


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that the model labels rightly, in percent."""
    model.eval()
    guesses = torch.cat([model(pictures(some)).argmax(1) for some in torch.split(images, 500)])
    model.train()
    return 100 * (guesses == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128, help="samples in a step of one group")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="file for the first worker's losses and test accuracies (JSON)")
    options = parser.parse_args()
    data = fashion_mnist()
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    test = torch.from_numpy(data.test_images), torch.from_numpy(data.test_labels)
    torch.manual_seed(options.seed)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), options.learning_rate, momentum=0.9, weight_decay=5e-4)
    log: list[dict[str, Any]] = []
    evaluations = 0
    start = time.monotonic()

    with modum.connect() as job, Averager(job, model, optimizer) as averager:
        batches = averager.share(
            (images, labels), batch_size=options.batch_size, epochs=options.epochs, seed=options.seed
        )
        samples = batches.samples
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * samples.progress)) / 2
        )
        for some, classes in batches:
            loss = nn.functional.cross_entropy(model(pictures(some)), classes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            job.report(loss=loss.item())
            if job.rank == 0:
                log.append({"samples": samples.progress * samples.total, "loss": loss.item()})
                if samples.progress * EVALUATIONS > evaluations:
                    evaluations += 1
                    with averager.shared_weights():
                        log[-1]["accuracy"] = accuracy(model, *test)
        averager.finish()
        if job.rank == 0:
            with averager.shared_weights():
                final = accuracy(model, *test)
            seconds = time.monotonic() - start
            print(f"test accuracy {final:.2f} % after {samples.total:,} samples in {seconds:.0f} s")
            if options.log:
                log.append({"samples": samples.total, "accuracy": final, "seconds": seconds})
                options.log.write_text(json.dumps(log))


if __name__ == "__main__":
    main()
