"""Lets worker processes import the scripted worlds by name: a worker gets its parent's module path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
