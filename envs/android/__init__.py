"""A simulated phone, its apps, tasks on it, and thousands of steps a second of many at once."""
