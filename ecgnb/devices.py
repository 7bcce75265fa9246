"""Which devices train one model together: one, all GPUs of a host, or those of several hosts.

Nothing but the machine and the environment decides: several GPUs are used if they are there, several hosts
if `TF_CONFIG` names them (TensorFlow's own variable; ci/CLUSTER.md has an example). A replica is a device's
copy of the model. Every host reads the same recordings and draws the same batches; replicas share the rows
of each batch, so that batch sizes, steps and results mean the same on any number of devices.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from ecgnb.errors import EcgnbError


def hosts() -> int:
    """Hosts that `TF_CONFIG` names as chief or worker; 1 without it."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
        return max(1, sum(len(cluster.get(job, [])) for job in ("chief", "worker")))
    except (ValueError, AttributeError, TypeError) as error:
        raise EcgnbError(f"TF_CONFIG is not what TensorFlow documents ({error})") from error


@functools.cache
def together() -> Any:
    """The `tf.distribute.Strategy` of this process, or None if it trains on one device.

    Hosts must join before TensorFlow computes anything, so call this first. Joining waits for all of them.
    """
    if keras.backend.backend() != "tensorflow":
        if hosts() > 1:
            raise EcgnbError("TF_CONFIG names several hosts, which train on TensorFlow only")
        return None
    import tensorflow as tf

    if hosts() > 1:
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (RuntimeError, ValueError) as error:
            raise EcgnbError(f"TF_CONFIG: the hosts cannot join ({_first_line(error)})") from error
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return None


def distribution() -> contextlib.AbstractContextManager:
    """Scope to build, load and compile a model in, so that every device has a copy."""
    return together().scope() if together() else contextlib.nullcontext()


def replicas(model: keras.Model) -> int:
    """How many devices share a model's work; 1 for a model that was not made in `distribution()`."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.num_replicas_in_sync if strategy else 1


def chief() -> bool:
    """Is this the process that writes files? One of several hosts is."""
    resolver = together() and together().cluster_resolver
    if not resolver:
        return True
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return (resolver.task_type, resolver.task_id) == (first, 0)


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


def agree(facts: str, remedy: str) -> None:
    """Wait for all hosts, and go on only if all give the same facts."""
    if hosts() == 1:
        return
    import tensorflow as tf

    mine = int.from_bytes(hashlib.sha256(facts.encode()).digest()[:4], "big", signed=True)
    with lost_hosts_named():
        strategy = together()
        every = strategy.gather(strategy.run(lambda: tf.constant([mine])), axis=0).numpy()
    if (every != mine).any():
        raise EcgnbError(f"the hosts in TF_CONFIG do not agree; {remedy}")


def shared_out(model: keras.Model, function: Callable, *arrays: Any) -> Any:
    """`function` of the rows of some tensors, each replica reading its share; the whole on every host.

    For use within a `tf.function`. A row of the result must depend on its row alone.
    """
    if replicas(model) == 1:
        return function(*arrays)
    import tensorflow as tf

    strategy, n = model.distribute_strategy, tf.shape(arrays[0])[0]

    def part():
        rows, _ = own_rows(n)
        return function(*(array[rows] for array in arrays))

    return tf.nest.map_structure(
        lambda value: strategy.gather(value, axis=0)[:n], strategy.run(part)
    )


def own_rows(n: Any, copies: int = 1) -> tuple[slice, Any]:
    """The rows of a batch that fall to the replica that asks, and what their loss counts for.

    n : rows, an int tensor; copies : rows that belong together. All rows fall to somebody once. A batch with
    less than one for each is read by everybody, and counts for that much less.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    i, of, units = context.replica_id_in_sync_group, context.num_replicas_in_sync, n // copies
    few = units < of
    first = tf.where(few, 0, copies * (i * units // of))
    last = tf.where(few, n, copies * ((i + 1) * units // of))
    return slice(first, last), tf.where(few, 1 / of, 1.0)


@contextlib.contextmanager
def lost_hosts_named() -> Iterator[None]:
    """A host that has gone becomes an error in one line, and what to do about it."""
    if hosts() == 1:
        yield
        return
    import tensorflow as tf

    gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    try:
        yield
    except gone as error:
        raise EcgnbError(
            "another host has gone; start all again with the same command, and training goes on from the "
            "last checkpoint"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
