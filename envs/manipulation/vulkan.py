"""Simulate without a Vulkan device, and render with whichever there is.

ManiSkill builds its pictures with Vulkan, and asks for it even when none are wanted. So a simulator that shows
no pictures is built with inert stand-ins for SAPIEN's materials (`without_rendering`): it starts faster, holds
no graphics memory, and runs where no Vulkan device exists. A simulator that shows pictures is built on the
device that `find_renderer` names: a GPU, or SwiftShader, a driver that renders on the CPU and that comes with
Debian's `chromium` package.

The stand-ins replace other people's objects only while a simulator without pictures is being built.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SWIFTSHADER = (
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
)
"""Where browsers put the description of the driver that renders on the CPU."""

HARDWARE = ("/dev/nvidia[0-9]*", "/dev/dri/renderD*", "/dev/dxg")
"""What a machine with a graphics device has; without any, only a CPU driver can answer."""

FIX = (
    "On a machine with a GPU install its Vulkan driver (in a container set NVIDIA_DRIVER_CAPABILITIES=all). "
    "Without one, render on the CPU: `apt-get install chromium`, then "
    f"`export VK_ICD_FILENAMES={SWIFTSHADER[0]}`. State observations need none of this."
)
"""How to get a device that renders."""


@dataclass(frozen=True, slots=True)
class Renderer:
    """A device that can draw pictures."""

    device: str
    """SAPIEN's name for it: `cuda` or `pci:0`."""
    name: str
    """The driver's own name for it."""


def find_renderer() -> Renderer | None:
    """Return the device that pictures will be drawn on, None where there is none.

    Vulkan is set up once a process and then fixed, so where the machine has no graphics device and the
    environment names no driver (`VK_ICD_FILENAMES` or `VK_DRIVER_FILES`), SwiftShader is named first, if it is
    installed.
    """
    _choose_driver()
    import sapien

    for device in ("cuda", "pci:0"):
        try:
            found = sapien.Device(device)
        except RuntimeError:  # SAPIEN's answer to a device that does not exist
            continue
        if found.can_render():
            return Renderer(device, str(found.name))
    return None


def rendering() -> str:
    """Return one line that says what draws pictures here, or how to get something that does."""
    renderer = find_renderer()
    if renderer is None:
        return f"no Vulkan device: state observations only, built with stand-ins for SAPIEN's materials. {FIX}"
    return f"{renderer.name} ({renderer.device})"


def _choose_driver() -> None:
    """Name SwiftShader as the Vulkan driver where nothing else can answer and nobody has named one."""
    if os.environ.get("VK_ICD_FILENAMES") or os.environ.get("VK_DRIVER_FILES"):
        return
    if any(glob.glob(pattern) for pattern in HARDWARE):
        return
    for path in SWIFTSHADER:
        if os.path.exists(path):
            os.environ["VK_ICD_FILENAMES"] = path
            return


@contextmanager
def rendering_on(renderer: Renderer | None) -> Iterator[None]:
    """Build simulators inside this context to draw on a device, or (None) not to draw at all.

    ManiSkill's own names for devices do not reach `pci:0`, so the backend it resolved is replaced.
    """
    import sapien
    from mani_skill.envs import sapien_env

    resolve = sapien_env.parse_sim_and_render_backend

    def resolved(sim_backend: str, render_backend: str) -> Any:
        backend = resolve(sim_backend, "none")
        if renderer is not None:
            backend.render_device = sapien.Device(renderer.device)
            backend.render_backend = "sapien_cuda" if renderer.device == "cuda" else "sapien_cpu"
        return backend

    sapien_env.parse_sim_and_render_backend = resolved
    try:
        if renderer is None:
            with without_rendering():
                yield
        else:
            yield
    finally:
        sapien_env.parse_sim_and_render_backend = resolve


@contextmanager
def without_rendering() -> Iterator[None]:
    """Replace SAPIEN's materials and visual shapes by inert stand-ins inside this context."""
    import sapien.render
    from mani_skill.utils.building import _mjcf_loader
    from mani_skill.utils.building.actor_builder import ActorBuilder
    from sapien.wrapper import urdf_loader
    from sapien.wrapper.actor_builder import ActorBuilder as SapienActorBuilder

    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        for module in (sapien.render, urdf_loader, _mjcf_loader):
            for name in ("RenderMaterial", "RenderTexture2D"):
                replace(module, name, _Inert)
        for builder in (SapienActorBuilder, ActorBuilder):
            for name in vars(builder):
                if name.startswith("add_") and "_visual" in name:
                    replace(builder, name, _return_builder)
        yield
    finally:
        for owner, name, value in reversed(replaced):
            setattr(owner, name, value)


class _Inert:
    """Stands in for a material or a texture: takes any argument and attribute, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def _return_builder(builder: Any, *_: Any, **__: Any) -> Any:
    """Stand in for `ActorBuilder.add_*_visual*`, which return the builder to be chained."""
    return builder
