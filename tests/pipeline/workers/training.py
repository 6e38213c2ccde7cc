"""A PyTorch model in two stages; stage 0 saves the whole of it: python training.py FILE."""

import sys

import numpy as np
import torch
from torch import nn

import modum
from modum.pipeline import Pipeline
from modum.torch import partition

DATA = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
LABELS = DATA[:, :5].argmax(1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 5))


def main() -> None:
    torch.manual_seed(0)
    with modum.connect() as job:
        stage = partition(job, network, sample=DATA[:16])
        stage.prepare(torch.optim.Adam(stage.parameters(), lr=0.01), nn.functional.cross_entropy)
        with Pipeline(job, stage, timeout=60) as pipeline:
            samples = pipeline.indices(size=64, batch_size=16, epochs=25)
            for _ in pipeline.train(samples, inputs=lambda i: DATA[i], labels=lambda i: LABELS[i]):
                pass
            results = pipeline.evaluate([np.arange(64)], inputs=lambda i: DATA[i], labels=lambda i: LABELS[i])
            model = pipeline.model()
        if model is not None:
            torch.save(model, sys.argv[1])
        print(results["loss"], len(stage.layers))


if __name__ == "__main__":
    main()
