"""Workers that train while they are measured: processes of their own, started by the benchmarks."""
