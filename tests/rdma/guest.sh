# In the emulated machine of scripts/softroce: what can only be tested with RDMA devices. $1 is the Python to use.
export UCX_IB_GID_INDEX=0 UCX_NET_DEVICES=rxa:1,rxc:1 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=src:.
exec "$1" -m pytest -p no:cacheprovider -p no:hypothesispytest --color=no -v -rA --durations=15 --timeout=300 \
  tests/rdma/test_devices.py tests/box/test_conformance.py \
  -k "test_devices or (rdma-1 and not nearest) or (rdma-3 and (accumulate or exchange or version))"
