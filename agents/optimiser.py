"""An optimiser's state as named tensors, so that a checkpoint needs no pickle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return every tensor of the optimiser's state, named `<parameter index>.<entry>`."""
    state = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()
    }


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_optimiser_tensors(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore `optimiser_tensors`.

    Raises:
        ValueError: A tensor belongs to a parameter that the optimiser does not have, or has another shape.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, entry = name.split(".", 1)
        if int(index) >= len(parameters):
            raise ValueError(f"the optimiser's state names parameter {index}, but there are {len(parameters)}.")
        if value.dim() and value.shape != parameters[int(index)].shape:
            expected = tuple(parameters[int(index)].shape)
            raise ValueError(f"the optimiser's {name} has shape {tuple(value.shape)}, its parameter {expected}.")
        state.setdefault(int(index), {})[entry] = value.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
