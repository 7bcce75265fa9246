"""Adversarial attacks on an ECG rhythm classifier, and defences against them."""

import os

# TensorFlow's C++ start-up messages (no GPU found, …) would stand in every notebook's output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
