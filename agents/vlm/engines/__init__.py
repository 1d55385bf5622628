"""Engines: what answers a batch of asks."""
