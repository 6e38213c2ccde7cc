"""How good the shared weights are that each update rule ends with, at equal samples: `python -m bench.rules`."""
