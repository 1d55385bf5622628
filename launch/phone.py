"""`palaestra phone`: one simulated phone for adb, for android-env and for people."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class PhoneOptions:
    """Serve a simulated phone on this machine's own address."""

    serve: bool = False
    """Behind the ports of an emulator: adb's, and the controller's that android-env uses."""
    show: bool = False
    """On a page in the browser."""
    task: str = ""
    """A task's template, such as alarm-set: the phone is prepared for it and the page shows the instruction."""
    seed: int = 0
    """Of the phone and the task."""
    preset: str = "calm"
    """How unruly the phone is: calm, wild or drift(T)."""
    adb_port: int = 5555
    """On 5555 adb lists it as emulator-5554 by itself; 0 takes a free one and prints it."""
    grpc_port: int = 8554
    """The emulator controller's."""
    page_port: int = 8080
    """The page's."""
    width: int = 1080
    """Pixels of the screen. From 256 on letters are smooth; below, it is the coarse screen of `PhoneEnv`, enlarged."""
    height: int = 2160
    """Pixels of the screen."""


def phone(options: PhoneOptions) -> None:
    """Serve until stopped.

    Raises:
        ValueError: For options that make no sense together.
        OSError: Where a port is taken.
    """
    from palaestra.envs.android.device import Device
    from palaestra.envs.android.noise import noise_named
    from palaestra.envs.android.tasks import TEMPLATES
    from palaestra.envs.android.tasks.template import start
    from palaestra.envs.android.wire.page import Page
    from palaestra.envs.android.wire.phone import Phone
    from palaestra.envs.android.wire.serve import serve_forever

    if not (options.serve or options.show):
        raise ValueError("say --serve (adb and the emulator's controller), --show (a page), or both.")
    for name in ("width", "height"):
        if not 1 <= getattr(options, name) <= 4096:
            raise ValueError(f"{name} is {getattr(options, name)}, expected 1 to 4096.")
    served = Phone(Device(options.seed, noise_named(options.preset)), options.width, options.height)
    if options.task:
        if options.task not in TEMPLATES:
            near = get_close_matches(options.task, TEMPLATES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no template {options.task!r}.{hint} There are {', '.join(TEMPLATES)}.")
        served.task = start(served.device, TEMPLATES[options.task], options.seed, "test")
        print(served.task.instruction)
    ports = options.adb_port if options.serve else None, options.grpc_port, options.page_port if options.show else None
    asyncio.run(serve_forever(Page(served), *ports))
