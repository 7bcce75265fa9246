"""Keras without TensorFlow's start-up messages: every module of the package imports Keras from here.

TensorFlow's C++ parts write to file descriptor 2 before any setting can silence them. So while Keras and
TensorFlow are imported and the devices are found, a small process reads what is written there. It drops the lines
that are known to mean nothing and passes on all others at once: warnings, errors, last words of a crash.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

NOISE = "|".join(
    (
        r"WARNING: All log messages before absl::InitializeLog",
        r"I\d{4} [\d:.]+ +\d+ ",  # information
        r"\d{4}-\d\d-\d\d [\d:.]+: I ",  # information, in TensorFlow's older format
        r"To enable the following instructions: .* rebuild TensorFlow",
        r"E.* failed call to cuInit: .*(UNKNOWN ERROR \(303\)|no CUDA-capable device)",  # no GPU
        r"E.* Unable to register cu(FFT|DNN|BLAS) factory",  # TensorFlow registers some parts twice
        r"W.* computation placer already registered",
    )
)
_FILTER = """
import re, sys
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not noise.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


@contextlib.contextmanager
def without_start_up_messages() -> Iterator[None]:
    """Whatever is written to file descriptor 2 meanwhile, by Python or C++, is freed of `NOISE`."""
    reader = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FILTER, NOISE],
        stdin=subprocess.PIPE,
        stdout=2,
        start_new_session=True,  # Ctrl-C ends this process, and with it the reader's input
    )
    assert reader.stdin is not None
    terminal = os.dup(2)
    os.dup2(reader.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        reader.stdin.close()
        # A process started meanwhile by others may hold the pipe open: it is not waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.wait(timeout=2)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # later: warnings and errors, no information
with without_start_up_messages():
    import keras
    from keras import layers, ops

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.list_physical_devices()  # TensorFlow looks for GPUs only when it is asked

__all__ = ["keras", "layers", "ops"]
