"""Which devices of this machine train one model: one, or all GPUs, by `tf.distribute.MirroredStrategy`.

A replica is a device's copy of the model. Replicas share the rows of each batch, so that batch sizes, steps and
results mean the same on any number of devices.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from ecgnb.quiet import keras

P = TypeVar("P")
T = TypeVar("T")
_streams = 1  # batches that are computed side by side


def one_core_a_batch() -> None:
    """From now on an operation has one core, and as many batches are computed side by side as there are cores.

    On CPU the network's gradients take a tenth to a third less time so than with all cores on each operation; a
    step of training takes longer. So it is for processes that attack and do not train. It must come before anything
    is computed. Does nothing on GPUs, on JAX, and where the environment sets the threads of TensorFlow.
    """
    global _streams
    if keras.backend.backend() != "tensorflow" or "TF_NUM_INTRAOP_THREADS" in os.environ:
        return
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return
    with contextlib.suppress(RuntimeError):  # something was computed already
        tf.config.threading.set_intra_op_parallelism_threads(1)
        _streams = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def streams() -> int:
    """How many batches this process computes side by side."""
    return _streams


def map_streams(function: Callable[[P], T], parts: Sequence[P]) -> list[T]:
    """[function(part) for each part], `streams()` at a time."""
    if len(parts) < 2 or _streams < 2:
        return [function(part) for part in parts]
    return list(_threads(_streams).map(function, parts))


@functools.cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "stream")


@functools.cache
def strategy() -> Any:
    """The `tf.distribute.Strategy` of this process, or None if it trains on one device."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else None


def distribution() -> contextlib.AbstractContextManager:
    """Scope to build, load and compile a model in, so that every device has a copy."""
    return strategy().scope() if strategy() else contextlib.nullcontext()


def replicas(model: keras.Model) -> int:
    """How many devices share a model's work; 1 for a model that was not made in `distribution()`."""
    own = getattr(model, "distribute_strategy", None)
    return own.num_replicas_in_sync if own else 1


def assign_each(model: keras.Model, variable: keras.Variable, values: list[np.ndarray]) -> None:
    """Give each replica's copy of one of the model's variables a value of its own."""
    if replicas(model) == 1:
        variable.assign(values[0])
        return
    import tensorflow as tf

    def assign():
        i = tf.distribute.get_replica_context().replica_id_in_sync_group
        variable.assign(tf.gather(np.stack(values), i))

    model.distribute_strategy.run(assign)


def share_rows(model: keras.Model, function: Callable, *arrays: Any) -> Any:
    """`function` of the rows of some tensors, each replica taking its share; the whole result.

    For use within a `tf.function`. A row of the result must depend on its row alone.
    """
    if replicas(model) == 1:
        return function(*arrays)
    import tensorflow as tf

    own, n = model.distribute_strategy, tf.shape(arrays[0])[0]

    def part():
        rows, _ = own_rows(n)
        return function(*(array[rows] for array in arrays))

    return tf.nest.map_structure(lambda value: own.gather(value, axis=0)[:n], own.run(part))


def own_rows(n: Any, copies: int = 1) -> tuple[slice, Any]:
    """The rows of a batch that fall to the replica that asks, and the weight of their loss.

    n : rows, an int tensor; copies : rows that belong together. Each row falls to one replica. A batch with
    less than one for each goes to every replica, and counts for that much less.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    i, of, units = context.replica_id_in_sync_group, context.num_replicas_in_sync, n // copies
    too_small = units < of
    first = tf.where(too_small, 0, copies * (i * units // of))
    last = tf.where(too_small, n, copies * ((i + 1) * units // of))
    return slice(first, last), tf.where(too_small, 1 / of, 1.0)


def describe_devices() -> str:
    """What this process computes on, in one line."""
    if keras.backend.backend() == "jax":
        import jax

        found = [str(device) for device in jax.devices()]
    else:
        import tensorflow as tf

        found = [device.name for device in tf.config.list_logical_devices()]
    return f"Keras {keras.__version__} on {keras.backend.backend()}: {', '.join(found)}"
