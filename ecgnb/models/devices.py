"""Which devices of this machine train one model: one, or all GPUs, by `tf.distribute.MirroredStrategy`.

A replica is a device's copy of the model. Replicas share the rows of each batch, so that batch sizes, steps and
results mean the same on any number of devices.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar, copy_context
from threading import Event
from typing import Any, TypeVar

import numpy as np

from ecgnb.quiet import keras

P = TypeVar("P")
T = TypeVar("T")
_cores = 1  # of them each has a batch of its own
_is_item: ContextVar[bool] = ContextVar("is_item", default=False)  # of `map_cores`: it has one core
_stop: ContextVar[Event | None] = ContextVar("stop", default=None)  # set when what is computed is no longer wanted


class Stopped(Exception):
    """What a thread computes is no longer wanted: another one failed, or the user has interrupted."""


def one_core_a_batch() -> None:
    """From now on an operation has one core, and as many batches are computed side by side as there are cores.

    On CPU the network's gradients take a tenth to a third less time so than with all cores on each operation; a
    step of training takes longer. So it is for processes that attack and do not train. It must come before anything
    is computed. Does nothing on GPUs, on JAX, and where the environment sets the threads of TensorFlow.
    """
    global _cores
    if keras.backend.backend() != "tensorflow" or "TF_NUM_INTRAOP_THREADS" in os.environ:
        return
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return
    with contextlib.suppress(RuntimeError):  # something was computed already
        tf.config.threading.set_intra_op_parallelism_threads(1)
        _cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def streams() -> int:
    """How many batches may be computed side by side for who asks: one inside an item of `map_cores`."""
    return 1 if _is_item.get() else _cores


def map_streams(function: Callable[[P], T], parts: Sequence[P]) -> list[T]:
    """[function(part) for each part], `streams()` at a time. Raises `Stopped` where it is no longer wanted."""
    if (stop := _stop.get()) and stop.is_set():
        raise Stopped
    if len(parts) < 2 or streams() < 2:
        return [function(part) for part in parts]
    return list(_threads(_cores, "batch").map(function, parts))


def map_cores(function: Callable[[P], T], items: Sequence[P], done: Callable[[int, T], object]) -> None:
    """done(i, function(item)) for each item: one item on each core, `done` in this thread, in any order.

    After an error, or Ctrl-C, what is still computed stops at its next batch.
    """
    stop = _stop.get() or Event()

    def compute(item: P) -> T:
        _is_item.set(True)
        _stop.set(stop)
        return function(item)

    threads = _threads(_cores, "item")
    futures = {threads.submit(copy_context().run, compute, item): i for i, item in enumerate(items)}
    try:
        for future in as_completed(futures):
            done(futures[future], future.result())
    except BaseException:
        stop.set()
        for future in futures:
            future.cancel()
        raise


@contextlib.contextmanager
def stopping_together() -> Iterator[None]:
    """What threads compute that are started within, by `contextvars.copy_context`, stops if the body raises."""
    stop = Event()
    token = _stop.set(stop)
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        _stop.reset(token)


@functools.cache
def _threads(n: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, name)


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
