"""The values of Caffe's enums by layer type, as in pycaffe: `params.Pooling.MAX`, `params.Data.LMDB`."""

from typing import Any

from modum.caffe import proto


def __getattr__(name: str) -> Any:
    try:
        return getattr(proto, f"{name}Parameter")
    except AttributeError:
        raise AttributeError(f"there is no {name}Parameter") from None
