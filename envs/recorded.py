"""Work on a GPU that is recorded once and then replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 3
"""How often work is done before it is recorded, so that libraries are loaded and code is compiled."""


class Recorded:
    """A function of tensors as one CUDA graph: its hundreds of small kernels start as one.

    No shape may depend on what tensors hold, and the host must not wait for the device. What is returned is a copy.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        changed: Mapping[str, tuple[Any, str]],
        *examples: Tensor,
    ) -> None:
        """Try the function out, and record it; neither leaves a trace.

        Args:
            function: Reads its arguments and any tensors that stay where they are.
            changed: What it changes besides, in place or by setting an attribute to a new tensor: an object and the
                attribute's name each. They hold the same tensors for ever, with the values that they are given.
            examples: Arguments: their shapes and kinds are those of all calls.
        """
        self._function, self._changed = function, changed
        self._inputs = tuple(example.clone() for example in examples)
        saved = {name: getattr(*part).clone() for name, part in changed.items()}
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._run()
        current.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._run()
        for name, part in changed.items():
            getattr(*part).copy_(saved[name])

    def _run(self) -> tuple[Tensor, ...]:
        """Run the function, and put what it made where that was before."""
        before = {name: getattr(*part) for name, part in self._changed.items()}
        outputs = self._function(*self._inputs)
        for name, part in self._changed.items():
            made = getattr(*part)
            if made is not before[name]:
                before[name].copy_(made)
                setattr(*part, before[name])
        return outputs

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the function makes of other arguments."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)
