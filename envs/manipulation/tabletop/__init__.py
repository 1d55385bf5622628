"""A table seen by two cameras, with objects, receptacles and instructions: thousands of worlds at once, in torch."""
