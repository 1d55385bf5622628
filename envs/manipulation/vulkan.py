"""Simulate without a Vulkan device, and render with whichever there is.

ManiSkill builds its pictures with Vulkan, and asks for it even when none are wanted. So a simulator that shows
no pictures is built with inert stand-ins for SAPIEN's materials (`rendering_on(None)`): it starts faster, holds
no graphics memory, and runs where no Vulkan device exists. A simulator that shows pictures is built on the
device that `find_renderer` names: a GPU, or SwiftShader, a driver that renders on the CPU and that comes with
Debian's `chromium` package.

SwiftShader would spend half a minute of each process on a table of 2D integrals (how rough surfaces mirror an
environment map) that these scenes, which have no environment map, never look at. There the shaders are SAPIEN's
own without that table; the pictures are the same.

All this replaces other people's objects only while a simulator is being built.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
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

    @property
    def on_cpu(self) -> bool:
        """Whether the processor draws."""
        return "SwiftShader" in self.name


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
        if renderer is not None and renderer.device != "cuda":
            backend.render_device, backend.render_backend = sapien.Device(renderer.device), "sapien_cpu"
        elif renderer is not None:  # the GPU that simulates draws too
            device = str(backend.device) if backend.device.type == "cuda" else "cuda"
            backend.render_device, backend.render_backend = sapien.Device(device), "sapien_cuda"
        return backend

    with replaced() as replace:
        replace(sapien_env, "parse_sim_and_render_backend", resolved)
        if renderer is None:
            _use_stand_ins(replace)
        elif renderer.on_cpu:
            choose = sapien.render.set_camera_shader_dir
            shaders = _shaders_without_table()
            replace(sapien.render, "set_camera_shader_dir", lambda name: choose(str(shaders / name)))
        yield


Replace = Callable[[Any, str, Any], None]


@contextmanager
def replaced() -> Iterator[Replace]:
    """Hand out a function that sets an attribute of an owner, and undo all that it did on leaving."""
    originals: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        yield replace
    finally:
        for owner, name, value in reversed(originals):
            setattr(owner, name, value)


def _shaders_without_table() -> Path:
    """Return a folder of SAPIEN's shaders that do not look at the table, made once in the user's cache.

    Where the cache cannot be written, return SAPIEN's own folder: the first picture then takes half a minute.
    """
    import sapien

    own = Path(sapien.__file__).parent / "vulkan_shader"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palaestra"
    folder = cache / f"sapien-{sapien.__version__}-shaders"
    if folder.exists():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return own
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        copy = Path(scratch) / "shaders"
        shutil.copytree(own, copy)
        for shader in (*copy.rglob("*.frag"), *copy.rglob("*.glsl")):
            text = re.sub(r"^.*uniform sampler2D samplerBRDFLUT;.*$", "", shader.read_text(), flags=re.MULTILINE)
            shader.write_text(re.sub(r"texture\(samplerBRDFLUT, .*?\)\)\.xy", "vec2(0)", text))
        with suppress(OSError):  # another process was faster
            copy.rename(folder)
    return folder


def _use_stand_ins(replace: Replace) -> None:
    """Replace SAPIEN's materials and visual shapes by inert stand-ins."""
    import sapien.render
    from mani_skill.utils.building import _mjcf_loader
    from mani_skill.utils.building.actor_builder import ActorBuilder
    from sapien.wrapper import urdf_loader
    from sapien.wrapper.actor_builder import ActorBuilder as SapienActorBuilder

    for module in (sapien.render, urdf_loader, _mjcf_loader):
        for name in ("RenderMaterial", "RenderTexture2D"):
            replace(module, name, _Inert)
    for builder in (SapienActorBuilder, ActorBuilder):
        for name in vars(builder):
            if name.startswith("add_") and "_visual" in name:
                replace(builder, name, _return_builder)


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
