"""What GA4's ``device`` can be told of this machine without asking anybody.

Only what the machine itself says for certain. What it is used as (``category``) and what its
visitors speak (``language``) is configured.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from agent.hardware import ROOT, text

LENGTH_MAX = 100  # characters, as of any value that GA4 standard keeps
SIZE = re.compile(r"([1-9][0-9]{0,5})[x,]([1-9][0-9]{0,5})")
DEVICE_TREES = ("sys/firmware/devicetree/base", "proc/device-tree")
OWN_NAMED = "Raspberry Pi"  # a maker that every device tree of its boards begins with


def device(root: Path = ROOT) -> Mapping[str, str]:
    """The fields that are known, by GA4's names; what cannot be read is left out."""
    found = {
        "operating_system": "Linux",
        "operating_system_version": _version(root),
        "model": _model(root),
        "brand": _brand(root),
        "screen_resolution": _screen(root),
    }
    shown = {name: _shown(value) for name, value in found.items() if value}
    return MappingProxyType({name: value for name, value in shown.items() if value})


def _shown(value: str) -> str:
    """On one line, printable, and no longer than GA4 keeps."""
    printable = "".join(c if c.isprintable() else " " for c in value)
    return " ".join(printable.split())[:LENGTH_MAX].strip()


# -- the system -------------------------------------------------------------------------------


def _version(root: Path) -> str | None:
    """The distribution with its version: a bare "12" under "Linux" would mean nothing."""
    release = _release(root)
    name, version = release.get("NAME"), release.get("VERSION_ID")
    return f"{name} {version}" if name and version else None


def _release(root: Path) -> dict[str, str]:
    """What os-release(5) says."""
    written = text(root / "etc/os-release") or text(root / "usr/lib/os-release") or ""
    found: dict[str, str] = {}
    for line in written.splitlines():
        name, _, value = line.partition("=")
        try:
            found[name.strip()] = " ".join(shlex.split(value, comments=True))
        except ValueError:
            continue  # a quote that does not end
    return found


# -- the board --------------------------------------------------------------------------------


def _model(root: Path) -> str | None:
    return _tree_model(root) or text(root / "sys/class/dmi/id/product_name")


def _brand(root: Path) -> str | None:
    """The maker, where it is named by itself: a device tree's model only begins with it."""
    model = _tree_model(root)
    if model is not None:
        return OWN_NAMED if model.startswith(OWN_NAMED) else None
    return text(root / "sys/class/dmi/id/sys_vendor")


def _tree_model(root: Path) -> str | None:
    return next((found for tree in DEVICE_TREES if (found := text(root / tree / "model"))), None)


# -- the screen -------------------------------------------------------------------------------


def _screen(root: Path) -> str | None:
    """The one size that the connected screens have.

    Where the kernel knows its outputs and none is connected, there is no screen, whatever the
    framebuffer says. Where they differ, the framebuffer says what is shown.
    """
    outputs = _outputs(root)
    sizes = {size for connected, size in outputs if connected and size}
    if len(sizes) == 1:
        return sizes.pop()
    if outputs and not any(connected for connected, _ in outputs):
        return None
    return _size(text(root / "sys/class/graphics/fb0/virtual_size"))


def _outputs(root: Path) -> list[tuple[bool, str | None]]:
    """Of each output whether a screen is connected, and the mode that the screen prefers."""
    return [
        (text(output / "status") == "connected", _size(text(output / "modes")))
        for output in _folders(root / "sys/class/drm")
        if (output / "status").exists()
    ]


def _folders(parent: Path) -> Iterator[Path]:
    try:
        yield from sorted(parent.iterdir())
    except OSError:
        return


def _size(line: str | None) -> str | None:
    found = SIZE.match(line or "")
    return f"{found[1]}x{found[2]}" if found else None
