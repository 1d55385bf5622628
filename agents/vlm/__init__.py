"""Models that look and answer: what can be asked, the batcher, its engines, and the client that everyone uses."""
