"""Train a small GPT to foretell the next character of Shakespeare's tragedies, alone or with many workers.

python examples/torch/gpt.py
modum run -n 2 examples/torch/gpt.py
"""

import argparse
import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import modum
from modum.data import shakespeare
from modum.torch import Averager


class Block(nn.Module):
    """Causal self-attention and a perceptron, each behind a normalization and beside a residual path."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.before_attention = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.attention(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        heads = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        x = x + self.joined(heads.transpose(1, 2).reshape(batch, length, width))
        return x + self.perceptron(x)  # type: ignore[no-any-return]


class GPT(nn.Module):
    """Embeddings of characters and positions, blocks, and an output layer whose weights are the characters'."""

    def __init__(self, characters: int, length: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)), nn.LayerNorm(width))
        self.output = nn.Linear(width, characters, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:  # smaller where a residual path gathers the outputs of all blocks
                residual = name.endswith(("joined.weight", "perceptron.3.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
        self.output.weight = self.characters.weight

    def forward(self, indices: Tensor) -> Tensor:
        positions = torch.arange(indices.shape[1], device=indices.device)
        return self.output(self.blocks(self.characters(indices) + self.positions(positions)))  # type: ignore[no-any-return]


def optimizer_of(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices, and neither biases nor gains."""
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, learning_rate, betas=(0.9, 0.95))


def rate(progress: float, warmup: float = 0.1, last: float = 0.1) -> float:
    """The factor of the learning rate by the job's progress: a linear warm-up, then a cosine."""
    if progress < warmup:
        return (progress + 0.01) / (warmup + 0.01)
    return last + (1 - last) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


@torch.no_grad()
def test_loss(model: nn.Module, text: Tensor, length: int) -> float:
    """The mean loss of a character of the text, in nats."""
    model.eval()
    windows = text[: (len(text) - 1) // length * length].view(-1, length)
    following = text[1 : windows.numel() + 1].view(-1, length)
    total = 0.0
    for some, nexts in zip(torch.split(windows, 64), torch.split(following, 64), strict=True):
        total += functional.cross_entropy(model(some).float().flatten(0, 1), nexts.flatten(), reduction="sum").item()
    model.train()
    return total / windows.numel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=12_288, help="windows of the text to train on, in all")
    parser.add_argument("--batch-size", type=int, default=64, help="windows in a step of one group")
    parser.add_argument("--accumulate", type=int, default=2, help="backward passes in a step")
    parser.add_argument("--length", type=int, default=64, help="characters in a window")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--clip", type=float, default=1.0, help="the largest norm of the gradients")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="by default on a GPU only")
    parser.add_argument("--compile", action="store_true", help="compile the model: pays off in long runs")
    parser.add_argument("--evaluations", type=int, default=3, help="while training; each takes a second or so")
    parser.add_argument("--test", type=int, default=20_000, help="characters to test with")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = shakespeare()
    train, test = (torch.from_numpy(part).to(device) for part in (text.train, text.test[: options.test]))
    offsets = torch.arange(options.length + 1, device=device)
    bf16 = device.type == "cuda" if options.bf16 is None else options.bf16
    precision = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()

    with modum.connect() as job:
        torch.manual_seed(options.seed)
        model = GPT(
            len(text.characters), options.length, options.width, options.layers, options.heads, options.dropout
        ).to(device)
        optimizer = optimizer_of(model, options.learning_rate, options.weight_decay)
        torch.manual_seed(options.seed + job.rank)  # dropout differs
        with Averager(job, model, optimizer) as averager:
            trained = torch.compile(model) if options.compile else model
            samples = averager.indices(size=options.samples, batch_size=options.batch_size, seed=options.seed)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: rate(samples.progress))
            evaluations, start = 0, time.monotonic()
            for batch in samples:
                # the numbers stand for windows all over the text: 7919 is prime
                starts = torch.from_numpy(batch * 7919 % (len(train) - options.length)).to(device)
                windows = train[starts[:, None] + offsets]
                parts = windows.chunk(options.accumulate)
                total = 0.0
                for number, part in enumerate(parts, 1):
                    # the members of a group average their gradients in the last pass
                    with nullcontext() if number == len(parts) else averager.no_sync():
                        with precision:
                            scores = trained(part[:, :-1]).flatten(0, 1)
                        loss = functional.cross_entropy(scores.float(), part[:, 1:].flatten())
                        loss = loss * (len(part) / len(windows))
                        loss.backward()  # type: ignore[no-untyped-call]
                    total += loss.item()
                nn.utils.clip_grad_norm_(model.parameters(), options.clip)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                job.report(loss=total)
                if job.rank == 0 and samples.progress * (options.evaluations + 1) >= evaluations + 1:
                    evaluations += 1
                    with averager.shared_weights(), precision:
                        print(f"{samples.progress:4.0%}: test loss {test_loss(model, test, options.length):.3f}")
            averager.finish()
            if job.rank == 0:
                with averager.shared_weights(), precision:
                    final = test_loss(model, test, options.length)
                seconds = time.monotonic() - start
                print(f"test loss {final:.3f} after {samples.total:,} samples in {seconds:.0f} s")


if __name__ == "__main__":
    main()
