"""The data layers of Caffe nets, their transformations and the databases below them."""

from modum.caffe.data.base import PrefetchingLayer
from modum.caffe.data.database import Data
from modum.caffe.data.hdf5 import HDF5Data, HDF5Output
from modum.caffe.data.images import ImageData
from modum.caffe.data.memory import DummyData, Input, MemoryData
from modum.caffe.data.store import Cursor, open_store
from modum.caffe.data.windows import WindowData

__all__ = [
    "Cursor",
    "Data",
    "DummyData",
    "HDF5Data",
    "HDF5Output",
    "ImageData",
    "Input",
    "MemoryData",
    "PrefetchingLayer",
    "WindowData",
    "open_store",
]
