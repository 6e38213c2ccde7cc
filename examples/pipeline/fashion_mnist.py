"""Train a network on Fashion-MNIST in stages, one a worker, each with a part of the layers (PyTorch).

modum run -n 4 examples/pipeline/fashion_mnist.py               four asynchronous stages
modum run -n 4 examples/pipeline/fashion_mnist.py --stages 2    two pipelines of two stages, averaging elastically
python examples/pipeline/fashion_mnist.py                       the same script, unsplit
"""

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import modum
from modum.data import fashion_mnist
from modum.pipeline import Pipeline
from modum.torch import partition


def cnn() -> nn.Sequential:
    """Three convolutions and two dense layers: 216,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(128, 10),
    )


def dense() -> nn.Sequential:
    """Five dense layers: 400,000 parameters."""
    hidden = [layer for _ in range(3) for layer in (nn.Linear(256, 256), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), *hidden, nn.Linear(256, 10))


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """The share of pictures that are labelled rightly."""
    return (outputs.argmax(1) == labels).float().mean()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["cnn", "dense"], default="cnn")
    parser.add_argument("--stages", type=int, help="stages of a pipeline; as many as workers if not given")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--synchronous", action="store_true", help="flush after every batch, in 8 micro-batches")
    parser.add_argument("--save", help="file for the whole model's state dict")
    options = parser.parse_args()
    data = fashion_mnist()
    labels = torch.from_numpy(data.train_labels).long()
    test_labels = torch.from_numpy(data.test_labels).long()

    def pictures(images: Any) -> Tensor:
        return (torch.from_numpy(images).unsqueeze(1).float() / 255 - 0.286) / 0.353

    torch.manual_seed(options.seed)
    with modum.connect() as job:
        network = {"cnn": cnn, "dense": dense}[options.model]
        stage = partition(job, network, stages=options.stages, sample=pictures(data.train_images[: options.batch_size]))
        optimizer = torch.optim.SGD(stage.parameters(), options.learning_rate, options.momentum)
        stage.prepare(optimizer, nn.functional.cross_entropy, {"accuracy": accuracy})
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            options.learning_rate,
            total_steps=options.epochs * (len(labels) // options.batch_size + 2),
            cycle_momentum=False,
        )
        with Pipeline(
            job,
            stage,
            mode="synchronous" if options.synchronous else "asynchronous",
            micro_batches=8 if options.synchronous else 1,
        ) as pipeline:
            print(f"{pipeline.place}, {sum(parameter.numel() for parameter in stage.parameters()):,} parameters")
            batches = pipeline.share(
                lambda batch: pictures(data.train_images[batch]),
                labels,
                batch_size=options.batch_size,
                epochs=options.epochs,
                seed=options.seed,
            )
            for _ in pipeline.train(batches):
                schedule.step()
            pipeline.finish()
            test = pipeline.evaluate(
                np.array_split(np.arange(len(test_labels)), 20),
                inputs=lambda batch: pictures(data.test_images[batch]),
                labels=lambda batch: test_labels[batch],
            )
            model = pipeline.model()
            if model is not None and pipeline.replica == 0:
                print(f"test accuracy {100 * test['accuracy']:.2f} % after {batches.samples.total:,} samples")
                if options.save:
                    torch.save(model, options.save)


if __name__ == "__main__":
    main()
