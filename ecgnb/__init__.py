"""Adversarial attacks on an ECG rhythm classifier, and defences against them."""
