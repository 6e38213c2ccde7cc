"""One of two processes that all-reduce a float32 tensor through gloo.

    python -m bench.peers.gloo RANK FILE NBYTES

FILE is where the two meet; it must not exist before the first comes.
"""

import sys
import time

import torch
import torch.distributed


def main(rank: int, file: str, nbytes: int) -> None:
    """All-reduce once a line, with one compute thread."""
    torch.set_num_threads(1)
    print("ready", flush=True)  # for the other rank: from here on the two wait for each other
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    tensor = torch.ones(nbytes // 4)
    for _ in sys.stdin:
        tensor.fill_(1)
        start = time.perf_counter()
        torch.distributed.all_reduce(tensor)
        print(time.perf_counter() - start, flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
