"""Where work is done: in this process, or by the workers of a Dask cluster. Results are the same.

Work is a pure function of one item, mapped over many items, such as chunks of recordings. If a worker
dies, its item is done again elsewhere: that costs time and changes nothing.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np

from ecgnb.errors import EcgnbError
from ecgnb.evaluation.cache import cached, code_digest, stored
from ecgnb.progress import bar

T = TypeVar("T")
Done = Callable[[int, Any], object]  # called with (index of an item, its result)
RETRIES = 2  # of an item that raises; Dask itself tries an item again whose worker died, three times
TIMEOUT = "30s"  # for a scheduler to answer
_priority: ContextVar[int | None] = ContextVar("priority", default=None)  # of a part of `run_all`


class Workers(Protocol):
    """What does the work.

    processes : how many items are worked on at a time.
    """

    @property
    def processes(self) -> int: ...

    def map(
        self,
        function: Callable[..., T],
        items: Sequence[Any],
        *,
        shared: tuple[Any, ...] = (),
        text: str = "",
        done: Done | None = None,
    ) -> list[T]:
        """[function(item, *shared) for each item], in the order of items.

        shared : what every item needs, such as a model; each worker gets it once. text : of a progress
        bar over items, none if empty. done : called in this process as each item finishes, in any order.
        """

    def run_all(self, parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """name -> result of each part. Parts are independent; they may call `map` and `run_all`."""


class Here:
    """This process: one item after the other or, after `devices.one_core_a_batch`, one on each core."""

    @property
    def processes(self) -> int:
        """Items at a time."""
        from ecgnb.models.devices import streams  # here, since Dask's workers start without Keras

        return streams()

    def map(
        self,
        function: Callable[..., T],
        items: Sequence[Any],
        *,
        shared: tuple[Any, ...] = (),
        text: str = "",
        done: Done | None = None,
    ) -> list[T]:
        """As `Workers.map`."""
        from ecgnb.models.devices import map_cores

        results: list[Any] = [None] * len(items)
        with bar(text, total=len(items)) as finished:

            def keep(i: int, result: T) -> None:
                results[i] = result
                if done:
                    done(i, result)
                finished.update()

            if self.processes == 1:
                for i, item in enumerate(items):
                    keep(i, function(item, *shared))
            else:
                map_cores(lambda item: function(item, *shared), items, keep)
        return results

    def run_all(self, parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """As `Workers.run_all`: side by side if items are, else one part after the other."""
        from ecgnb.models.devices import stopping_together

        if self.processes == 1:
            return {name: part() for name, part in parts.items()}
        with stopping_together():
            return _side_by_side(parts)


HERE = Here()


class Cluster:
    """The workers of a Dask cluster. client : a `distributed.Client`."""

    def __init__(self, client: Any):
        self.client, self._lock = client, Lock()
        self._sent: dict[int, tuple[object, Any]] = {}  # id -> (shared object, its future)

    @property
    def processes(self) -> int:
        """The workers that there are at present."""
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def map(
        self,
        function: Callable[..., T],
        items: Sequence[Any],
        *,
        shared: tuple[Any, ...] = (),
        text: str = "",
        done: Done | None = None,
    ) -> list[T]:
        """As `Workers.map`."""
        import distributed

        packed = [self._send(one) for one in shared]
        settings = {"pure": False, "retries": RETRIES, "priority": _priority.get() or 0}
        indices = {
            self.client.submit(_checked, code_digest(), function, item, *packed, **settings): i
            for i, item in enumerate(items)
        }
        results: list[Any] = [None] * len(items)
        try:
            with bar(text, total=len(items)) as finished:
                for future, result in distributed.as_completed(indices, with_results=True):
                    i = indices[future]
                    results[i] = result
                    if done:
                        done(i, result)
                    finished.update()
        except distributed.KilledWorker as error:
            raise EcgnbError(
                "several workers died on the same item, most likely for lack of memory; "
                "give each worker more, or start fewer"
            ) from error
        finally:
            self.client.cancel(list(indices))
        return results

    def run_all(self, parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """As `Workers.run_all`: side by side, so that the end of one part leaves no worker idle.

        Parts named first have priority, in all that they ask for.
        """
        return _side_by_side(parts)

    def _send(self, one: object) -> Any:
        """The future of a shared object, pickled; the same future for the same object.

        It is the result of a task, not scattered data, so that Dask makes it again when its workers have
        died. It is bytes, since unpickling a model takes seconds in the scheduler and in every transfer.
        Its priority is highest, since items wait for it.
        """
        from distributed.protocol.pickle import dumps

        with self._lock:
            if id(one) not in self._sent:  # `one` is stored too, so that no other object gets its id
                future = self.client.submit(_same, dumps(one), pure=False, priority=1)
                self._sent[id(one)] = one, future
            return self._sent[id(one)][1]


def _side_by_side(parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """`Workers.run_all` by a thread for each part."""
    threads, futures = ThreadPoolExecutor(max(1, len(parts))), {}
    for place, (name, part) in enumerate(parts.items()):
        context = copy_context()
        if _priority.get() is None:  # parts of a part keep its priority
            context.run(_priority.set, -place)
        futures[name] = threads.submit(context.run, part)
    try:
        for future in as_completed(futures.values()):
            future.result()  # the first error is raised without waiting for the other parts
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return {name: future.result() for name, future in futures.items()}


def map_cached(
    workers: Workers,
    function: Callable[..., dict[str, np.ndarray]],
    items: Sequence[Any],
    entries: Sequence[tuple[str, dict[str, Any]]],
    folder: Path,
    *,
    shared: tuple[Any, ...] = (),
    text: str = "",
) -> list[dict[str, np.ndarray]]:
    """As `Workers.map`, of a function that returns arrays; no item is done twice.

    entries : (name, key) of each item, by which `cache.cached` stores its result in `folder` as soon as
    it is finished. Only this process writes there.
    """
    found = [stored(folder, *entry) for entry in entries]
    missing = [i for i, result in enumerate(found) if result is None]

    def store(j: int, arrays: dict[str, np.ndarray]) -> None:
        found[missing[j]] = cached(folder, *entries[missing[j]], lambda: arrays)

    work = [items[i] for i in missing]
    workers.map(function, work, shared=shared, text=text if missing else "", done=store)
    return [result for result in found if result is not None]


@contextmanager
def workers(where: str) -> Iterator[Workers]:
    """The workers that a `--cluster` option names, for as long as the context is open.

    where : "" for this process; "local:4" for four processes that share this machine's cores, "local" for
    one a core; or the address of a scheduler, such as "tls://10.0.0.5:8786", whose workers have this
    package installed, and whose certificates are those of Dask's configuration. Raises EcgnbError without Dask, or
    if no scheduler answers.
    """
    if not where:
        yield HERE
        return
    local = re.fullmatch(r"local(?::([1-9]\d*))?", where)
    if where.startswith("local") and not local:
        raise EcgnbError(f"--cluster {where}: expected local, or local:N with a number of processes, such as local:4")
    try:
        import cryptography  # noqa: F401  # by which a local cluster is encrypted
        import distributed
    except ImportError as error:
        raise EcgnbError(f"--cluster needs Dask ({error}); install it: pip install 'ecgnb[cluster]'") from error
    if local:
        with local_cluster(int(local[1] or 0)) as cluster, distributed.Client(cluster) as client:
            yield _ready(client)
        return
    try:
        client = distributed.Client(where, timeout=TIMEOUT)
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates
        raise EcgnbError(
            f"--cluster {where}: no Dask scheduler answers there ({error}); give local, local:N or "
            "the address that `dask scheduler` prints (tls:// needs certificates: ci/CLUSTER.md)"
        ) from error
    with client:
        yield _ready(client)


def local_cluster(processes: int = 0, threads: int = 0) -> Any:
    """A `LocalCluster` of worker processes: by default one a core, each with its share of the cores.

    Only who has its certificates, made anew and never stored, can connect: whoever can, runs code as you, and a port
    of this machine is open to all its users.
    """
    from dask.system import CPU_COUNT
    from distributed import LocalCluster
    from distributed.security import Security

    processes = processes or CPU_COUNT
    share = str(threads or max(1, CPU_COUNT // processes))
    return LocalCluster(
        n_workers=processes,
        threads_per_worker=1,  # items at a time; TensorFlow's threads are set here:
        env={
            "OMP_NUM_THREADS": share,
            "TF_NUM_INTRAOP_THREADS": share,
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # else the first worker takes all of a GPU's memory
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        },
        security=Security.temporary(),
        dashboard_address="127.0.0.1:0",
        preload=[__name__],  # for `dask_setup`, in every worker as it starts
    )


def dask_setup(worker: Any) -> None:
    """Pin a local worker to cores of its own: some kernels put two busy processes on one core."""
    if not hasattr(os, "sched_setaffinity"):  # not Linux
        return
    cores = sorted(os.sched_getaffinity(0))
    share = int(os.environ["OMP_NUM_THREADS"])
    first = worker.name * share
    own = {cores[i % len(cores)] for i in range(first, first + share)}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # the thread has ended meanwhile
            os.sched_setaffinity(int(thread.name), own)


def _ready(client: Any) -> Cluster:
    print(f"Dask dashboard: {client.dashboard_link}", flush=True)
    return Cluster(client)


def _checked(code: str, function: Callable[..., T], item: object, *packed: bytes) -> T:
    """`function(item, *shared)` on a worker, which must run the code of digest `code`."""
    if code_digest() != code:
        raise EcgnbError("a worker runs other code than the client; install the same version on all")
    return function(item, *map(_unpacked, packed))


_unpacked = lru_cache(32)(pickle.loads)  # each object once a worker, with what is compiled for it


def _same(packed: bytes) -> bytes:
    return packed
