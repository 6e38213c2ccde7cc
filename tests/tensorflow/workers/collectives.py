"""A member of a group: runs the suite of groups."""

import numpy as np
import tensorflow as tf

import modum
from modum.tensorflow.group import launched_group
from modum.testing import check_group

with modum.connect() as job:
    group = launched_group(job)
    assert (group.rank, group.size) == (job.group.rank, job.group.size)
    check_group(group, tf.constant, lambda tensor: np.array(tensor))
    print("checked")
