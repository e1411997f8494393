"""What tells one machine from another, as far as this process may read it.

The values stay on this machine: whoever keeps them keeps salted hashes.
"""

from pathlib import Path

BOARD_SERIAL = "board_serial"
PRODUCT_UUID = "product_uuid"
MACHINE_ID = "machine_id"
BOARD = (BOARD_SERIAL, PRODUCT_UUID)  # facts of the board; the machine-id is the system's

ROOT = Path("/")
READ_MAX = 4096  # bytes: these files hold a line each
DISTINCT_MIN = 4  # characters: no serial number, but 0000-0000 and FFFF-FFFF are said to be one
MACHINE_ID_LENGTH = 32
MACHINE_ID_PATH = "/etc/machine-id"

# What makers leave where a fact should be, on every board of a kind.
PLACEHOLDERS = frozenset(
    (
        "0123456789", "123456789", "1234567890", "0123456789abcdef",
        "03000200-0400-0500-0006-000700080009", "12345678-1234-5678-90ab-cddeefaabbcc",
        "default string", "system manufacturer", "system product name", "system serial number",
        "to be filled by o.e.m.", "not applicable", "not available", "not settable",
        "not specified", "oem", "o.e.m.", "undefined", "unknown",
    )
)  # fmt: skip


def facts(root: Path = ROOT) -> dict[str, str]:
    """The facts by name, without those that nobody knows or this user may not read."""
    tree = text(root / "sys/firmware/devicetree/base/serial-number") or text(
        root / "proc/device-tree/serial-number"
    )
    found = {
        BOARD_SERIAL: _distinct(tree),
        PRODUCT_UUID: _distinct(text(root / "sys/class/dmi/id/product_uuid")),
        MACHINE_ID: _machine_id(root),
    }
    return {name: value for name, value in found.items() if value is not None}


def text(path: Path) -> str | None:
    """The one line of a kernel's file; None if it is not there, not readable, or says nothing."""
    try:
        with path.open("rb") as file:
            line = file.read(READ_MAX).decode()
    except (OSError, UnicodeDecodeError):
        return None
    line = line.strip("\0 \t\r\n")
    return line if line and line.lower() not in PLACEHOLDERS else None


def _distinct(value: str | None) -> str | None:
    """The value, if it can be one machine's own; in one case, as firmware updates change it."""
    if value is None or len(set(value) - set("-: ")) < DISTINCT_MIN:
        return None
    return value.lower()


def _machine_id(root: Path) -> str | None:
    value = text(root / "etc/machine-id")
    if value is None or len(value) != MACHINE_ID_LENGTH or _is_mounted(root):
        return None  # empty or "uninitialized" in an image that was never started
    return _distinct(value)


def _is_mounted(root: Path) -> bool:
    """Whether it was laid over the file: systemd's for this boot only, where it cannot write one."""
    try:
        mounts = (root / "proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(MACHINE_ID_PATH in mount.split(" ")[4:5] for mount in mounts)
