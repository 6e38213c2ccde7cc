"""What joining costs a model of 262 variables: prints the processor seconds of building it, and of joining."""

import gc
import sys
import time
from contextlib import closing

import keras

import modum.keras
from modum.box import Box
from modum.job import Job
from modum.rules import Elastic


def built() -> keras.Model:
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=10)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


built()  # what is imported and set up once; kernels are compiled, and others loaded
with Box.connect(sys.argv[1]) as box, closing(box.create("small", 8)) as buffer:
    buffer.write(buffer.read())
gc.collect()
start = time.process_time()
model = built()
building = time.process_time() - start
with Box.connect(sys.argv[1]) as box, Job(box) as job, modum.keras.Averager(job, Elastic(interval=8)) as averager:
    averager.set_model(model)
    averager.set_params({"epochs": 1, "steps": 1})
    averager.on_train_begin()
    start = time.process_time()
    averager.on_epoch_begin(0)
    print(building, time.process_time() - start)
