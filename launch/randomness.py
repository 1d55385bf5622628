"""The state of every global random generator, as tensors."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

CUDA = "random.cuda."


def random_state() -> dict[str, Tensor]:
    """Return the states of torch's (CPU and every CUDA device), NumPy's and Python's global generators.

    Returns:
        Small integer and float64 tensors, by names that start with "random.".
    """
    import torch

    state = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        for device, cuda in enumerate(torch.cuda.get_rng_state_all()):
            state[f"{CUDA}{device}"] = cuda
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    if name != "MT19937":
        raise RuntimeError(f"NumPy's global generator is {name}; only its default, MT19937, can be saved.")
    state["random.numpy"] = torch.tensor([*np.asarray(keys).tolist(), position, has_gauss])
    state["random.numpy.gauss"] = torch.tensor([gauss], dtype=torch.float64)
    version, words, next_gauss = random.getstate()
    state["random.python"] = torch.tensor([version, *words])
    # Python keeps the second of each pair of normal draws: none, or one number.
    state["random.python.gauss"] = torch.tensor([] if next_gauss is None else [next_gauss], dtype=torch.float64)
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Restore what `random_state` returned; other entries are ignored.

    Raises:
        KeyError: a generator's state is missing.
    """
    import torch

    torch.set_rng_state(state["random.torch"])
    *keys, position, has_gauss = state["random.numpy"].tolist()
    gauss = state["random.numpy.gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, *words = state["random.python"].tolist()
    next_gauss = state["random.python.gauss"].tolist()
    random.setstate((version, tuple(words), next_gauss[0] if next_gauss else None))
    saved = sum(name.startswith(CUDA) for name in state)
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if saved != here:
        warnings.warn(
            f"The random state is of {saved} CUDA devices and this machine has {here}: what is drawn on them "
            "will differ from an unbroken run.",
            stacklevel=2,
        )
    for device in range(min(saved, here)):
        torch.cuda.set_rng_state(state[f"{CUDA}{device}"], device)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every global generator for a while, then put each back as it was."""
    import torch

    before = random_state()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        set_random_state(before)
