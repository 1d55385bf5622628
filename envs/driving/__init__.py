"""Driving: batched worlds in pure torch, with roads, traffic, signals, walkers and rules, on any device."""
