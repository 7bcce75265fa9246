"""Kill −9 at random moments: what a job leaves in the end equals what an unbroken one leaves, to the bit.

Example: python ci/fuzz_files.py --kills 50
"""

from __future__ import annotations

import argparse
import functools
import http.server
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ecgnb.attacks import Threat, square
from ecgnb.data.dataset import find_data, load_data
from ecgnb.data.download import find_archive
from ecgnb.evaluation.cache import cached
from ecgnb.evaluation.run import EvaluatedModel, Execution, run_attacks
from ecgnb.evaluation.suites import Attack
from ecgnb.files import array_digest, file_digest


class Linear:
    """A classifier in NumPy, so that a job starts at once."""

    classes, fs, low_precision = ("A", "N", "O", "~"), 300.0, False
    weights = np.random.default_rng(0).normal(size=(9000, 4)).astype(np.float32)

    def logits(self, x: np.ndarray) -> np.ndarray:
        return x[..., 0] @ self.weights


def caching(folder: Path) -> str:
    """Arrays of the demo set, and ten results."""
    demo, _ = find_data("demo")
    os.environ["ECGNB_CACHE"] = str(folder)
    train = load_data("train", data=str(demo))
    made = [cached(folder, "result", {"i": i}, lambda i=i: {"x": np.arange(1e5) * i}) for i in range(10)]
    return array_digest(train.x, train.y, *train.signals, *(one["x"] for one in made))


def evaluating(folder: Path) -> str:
    """An attack on chunks of recordings."""
    dataset = load_data("train", data="demo")
    problem = Threat().on(dataset.take(np.arange(100)))
    model = EvaluatedModel("linear", Linear(), "0")  # type: ignore[arg-type]
    attacks = {"square": Attack("Square", square, {"queries": 10})}
    results = run_attacks(attacks, model, problem, Execution(folder, 1))
    return array_digest(*vars(results["square"]).values())


def downloading(folder: Path) -> str:
    """A zip from a slow server."""
    os.environ["ECGNB_CACHE"] = str(folder)
    content = folder.parent / "sample2017.zip"
    if not content.exists():
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("A00001.mat", random.Random(0).randbytes(400_000))
    with served(functools.partial(slowly, content.read_bytes())) as url:
        os.environ["ECGNB_MIRROR"] = url
        return file_digest(find_archive("validation").path)


def training(folder: Path) -> str:
    """Three epochs of a small network."""
    import keras
    from conftest import small_network

    from ecgnb.models import network
    from ecgnb.training import loop
    from ecgnb.training.configuration import TrainingConfig
    from ecgnb.training.selection import first_of_each_class

    network.build = small_network
    keras.utils.set_random_seed(1)
    config = TrainingConfig("adaptive", 3, per_class=6, batch_size=8, steps=2)
    train_set, dev_set = (first_of_each_class(load_data(split, data="demo"), 6) for split in ("train", "dev"))
    model, history = loop.train(config, train_set, dev_set, folder, small_network())
    last = keras.models.load_model(folder / "checkpoint-0003.keras")
    weights = [np.asarray(w) for w in (*model.weights, *last.weights, *last.optimizer.variables)]
    return array_digest(*weights) + file_digest(folder / loop.HISTORY) + history.to_csv()


JOBS: dict[str, Callable[[Path], str]] = {job.__name__: job for job in (caching, evaluating, downloading, training)}


@contextmanager
def served(answer: Callable[[http.server.BaseHTTPRequestHandler], object]) -> Iterator[str]:
    """A server on this machine that answers each GET by `answer`; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # who asked has gone
                answer(self)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def slowly(content: bytes, request: http.server.BaseHTTPRequestHandler, pieces: int = 20, pause: float = 0.02) -> None:
    """Answer with `content` in pieces."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    size = -(-len(content) // pieces)
    for first in range(0, len(content), size):
        request.wfile.write(content[first : first + size])
        time.sleep(pause)


def run_with_kills(
    job: str, folder: Path, kills: int = 0, longest: float = 0, rng: random.Random | None = None
) -> tuple[str, int, float]:
    """Run a job, kill it, run it again, until it ends: what it prints, how often it was killed, seconds of the last run.

    It is killed at most `kills` times, each within `longest` seconds.
    """
    command = [sys.executable, __file__, "--job", job, str(folder)]
    killed = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # all is imported
        began = time.monotonic()
        if killed < kills:
            try:
                process.wait(rng.uniform(0, longest))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                continue
        output = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"{job}: failed after {killed} kills; {folder}")
        return output, killed, time.monotonic() - began


def fuzz(job: str, kills: int, place: Path, seed: int = 0) -> int:
    """Kill a job so often, then begin anew as long as kills are left; SystemExit if what it made differs once.

    Returns how often it was begun.
    """
    expected, _, seconds = run_with_kills(job, place / "unbroken")
    rng, trial = random.Random(f"{seed} {job}"), 0
    while kills > 0:
        trial += 1
        output, killed, _ = run_with_kills(job, place / f"broken-{trial}", min(kills, 5), seconds, rng)
        kills -= killed
        if output != expected:
            raise SystemExit(f"{job}: other results after {killed} kills, trial {trial}, seed {seed}")
    return trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each job (20)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS), help="some jobs")
    parser.add_argument("--job", nargs=2, metavar=("JOB", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job, folder = options.job
        print("started", flush=True)
        print(JOBS[job](Path(folder)))
    else:
        for job in options.only:
            with tempfile.TemporaryDirectory() as place:
                trials = fuzz(job, options.kills, Path(place), options.seed)
            print(f"{job}: killed {options.kills} times in {trials} trials; all results equal to the bit", flush=True)


if __name__ == "__main__":
    main()
