"""Where work is done: in this process, or by the workers of a Dask cluster. The results are the same.

Work is a function of one item, mapped over many, such as chunks of recordings. It must be pure: a worker that
dies is replaced by doing its item again elsewhere, which costs time and changes nothing.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import as_completed as futures_as_completed
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from ecgnb.errors import EcgnbError
from ecgnb.progress import bar
from ecgnb.store import cached, code_digest, file_of

RETRIES = (
    2  # of an item that fails; an item whose worker dies is tried again anyway, Dask's three times
)
_urgency = ContextVar("urgency", default=None)  # of the part of `Cluster.together` that asks
PATIENCE = "30s"  # for a scheduler to answer


class Workers(Protocol):
    """Those who do the work."""

    def map(
        self,
        function: Callable,
        items: Sequence,
        *,
        shared: tuple = (),
        text: str = "",
        done: Callable[[int, Any], object] | None = None,
    ) -> list:
        """[function(item, *shared) for each item], in the order of items.

        shared : what all items need, such as a model: sent to each worker once, and kept there; text : of a
        progress bar over items, none if empty; done : called here with (index, result) as each is finished,
        in any order.
        """

    def together(self, parts: dict[str, Callable[[], Any]]) -> dict[str, Any]:
        """name -> what that part returns. Parts do not need each other, and may call `map` and `together`."""


class Here:
    """This process, one item after the other."""

    def map(self, function, items, *, shared=(), text="", done=None):
        """As `Workers.map`."""
        results = []
        for i, item in enumerate(bar(text, items)):
            results.append(function(item, *shared))
            if done:
                done(i, results[i])
        return results

    def together(self, parts):
        """As `Workers.together`: one after the other."""
        return {name: part() for name, part in parts.items()}


HERE = Here()


class Cluster:
    """The workers of a Dask cluster. client : a `distributed.Client`."""

    def __init__(self, client: Any):
        self.client, self._sent, self._sending = client, {}, Lock()

    def map(self, function, items, *, shared=(), text="", done=None):
        """As `Workers.map`."""
        from distributed import KilledWorker, as_completed

        given = [self._send(one) for one in shared]
        indices = {
            self.client.submit(
                _checked,
                *(code_digest(), function, item, *given),
                pure=False,
                retries=RETRIES,
                priority=_urgency.get() or 0,
            ): i
            for i, item in enumerate(items)
        }
        results = [None] * len(items)
        try:
            with bar(text, total=len(items)) as finished:
                for future, result in as_completed(indices, with_results=True):
                    i = indices[future]
                    results[i] = result
                    if done:
                        done(i, result)
                    finished.update()
        except KilledWorker as error:
            raise EcgnbError(
                "an item has cost several workers their life, most likely for want of memory; give each worker "
                "more, or start fewer"
            ) from error
        finally:
            self.client.cancel(list(indices))
        return results

    def together(self, parts):
        """As `Workers.together`: side by side, so that the end of one part leaves no worker idle.

        Workers prefer what a part asks for to what those after it do, whenever it asks.
        """
        threads, futures = ThreadPoolExecutor(len(parts)), {}
        for place, (name, part) in enumerate(parts.items()):
            context = copy_context()
            if _urgency.get() is None:  # parts of a part are all as urgent as it is
                context.run(_urgency.set, -place)
            futures[name] = threads.submit(context.run, part)
        try:
            for future in futures_as_completed(futures.values()):
                future.result()  # the first error, or an interruption, is not kept waiting by the others
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        return {name: future.result() for name, future in futures.items()}

    def _send(self, one: object) -> Any:
        """A future of an object that all items share, packed, the same for the same object.

        It is the result of a task, not scattered data, so that it is made again when its workers have died;
        packed, since a scheduler unpacks what it is given, and workers what they give each other, which takes
        seconds for a model; and the most urgent of all, since items wait for it.
        """
        from distributed.protocol.pickle import dumps

        with self._sending:
            if id(one) not in self._sent:  # holding `one` keeps its id from being given to another
                future = self.client.submit(_as_it_is, dumps(one), pure=False, priority=1)
                self._sent[id(one)] = one, future
            return self._sent[id(one)][1]


def map_cached(
    workers: Workers,
    function: Callable[..., dict[str, np.ndarray]],
    items: Sequence,
    kept: Sequence[tuple[str, dict]],
    folder: Path,
    *,
    shared: tuple = (),
    text: str = "",
) -> list[dict[str, np.ndarray]]:
    """As `Workers.map`, of a function that returns arrays, but an item is not done twice.

    kept : (name, key) of each item, by which `store.cached` keeps its result in `folder` as soon as it is
    finished. Only this process writes there.
    """
    missing = [i for i, one in enumerate(kept) if not file_of(folder, *one).exists()]
    workers.map(
        function,
        [items[i] for i in missing],
        shared=shared,
        text=text if missing else "",
        done=lambda j, arrays: cached(folder, *kept[missing[j]], lambda: arrays),
    )
    return [
        cached(folder, *one, lambda item=item: function(item, *shared))
        for one, item in zip(kept, items, strict=True)
    ]


@contextmanager
def workers(where: str) -> Iterator[Workers]:
    """The workers that a `--cluster` option names, for as long as the context is open.

    where : "" for this process; "local:4" for four processes on this machine that share its cores, "local"
    for one a core; or the address of a scheduler, such as "tcp://10.0.0.5:8786", whose workers have this
    package installed.
    """
    if not where:
        yield HERE
        return
    try:
        import distributed
    except ImportError as error:
        raise EcgnbError(
            f"--cluster needs Dask ({error}); install it: pip install 'ecgnb[cluster]'"
        ) from error
    local = re.fullmatch(r"local(?::([1-9]\d*))?", where)
    if local:
        with local_cluster(int(local[1] or 0)) as cluster, distributed.Client(cluster) as client:
            yield _ready(client)
        return
    try:
        client = distributed.Client(where, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise EcgnbError(
            f"--cluster {where}: no Dask scheduler answers there ({error}); give local, local:N or the address "
            "that `dask scheduler` prints"
        ) from error
    with client:
        yield _ready(client)


def local_cluster(processes: int = 0, threads: int = 0) -> Any:
    """A `LocalCluster` of worker processes, by default one a core, and threads each, by default an equal share."""
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    processes = processes or CPU_COUNT
    threads = str(threads or max(1, CPU_COUNT // processes))
    return LocalCluster(
        n_workers=processes,
        threads_per_worker=1,  # items at a time; TensorFlow's threads are set here:
        env={
            "OMP_NUM_THREADS": threads,
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # else the first worker takes all of a GPU's memory
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        },
        dashboard_address="127.0.0.1:0",
        preload=[__name__],  # for `dask_setup`, in every worker as it starts
    )


def dask_setup(worker: Any) -> None:
    """Keep a local worker to cores of its own: kernels may pack two busy processes on one core."""
    if not hasattr(os, "sched_setaffinity"):  # not Linux
        return
    cores = sorted(os.sched_getaffinity(0))
    share = int(os.environ["OMP_NUM_THREADS"])
    first = worker.name * share
    own = {cores[i % len(cores)] for i in range(first, first + share)}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # of a thread that has ended meanwhile
            os.sched_setaffinity(int(thread.name), own)


def _ready(client: Any) -> Cluster:
    print(f"Dask dashboard: {client.dashboard_link}", flush=True)
    return Cluster(client)


def _checked(code: str, function: Callable, item: object, *packed: bytes) -> object:
    """`function(item, *shared)`, on a worker that runs the code of digest `code`; packed : by pickle."""
    if code_digest() != code:
        raise EcgnbError(
            "a worker runs other code than the client; install the same version on all"
        )
    return function(item, *map(_unpacked, packed))


_unpacked = lru_cache(32)(pickle.loads)  # each object once a worker, with what is compiled for it


def _as_it_is(packed: bytes) -> bytes:
    return packed
