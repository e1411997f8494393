"""The default routes of this machine: a new one may have brought the network back."""

from pathlib import Path

IPV4, IPV6 = Path("/proc/net/route"), Path("/proc/net/ipv6_route")
UP_AND_GATEWAY = 0x3  # RTF_UP | RTF_GATEWAY, <linux/route.h>
LOOPBACK = "lo"


def default_routes(ipv4: str, ipv6: str) -> frozenset[tuple[str, str]]:
    """Interface and gateway of each default route, from the kernel's two tables (proc(5))."""
    found: set[tuple[str, str]] = set()
    for line in ipv4.splitlines()[1:]:
        interface, destination, gateway, flags, *_ = line.split()
        if destination == "00000000" and int(flags, 16) & UP_AND_GATEWAY == UP_AND_GATEWAY:
            found.add((interface, gateway))
    for line in ipv6.splitlines():
        fields = line.split()
        destination, length, gateway, interface = fields[0], fields[1], fields[4], fields[9]
        if int(destination + length, 16) == 0 and interface != LOOPBACK:
            found.add((interface, gateway))
    return frozenset(found)


def read_default_routes() -> frozenset[tuple[str, str]]:
    """The default routes now; none where the kernel has no such table."""
    return default_routes(*(p.read_text() if p.exists() else "" for p in (IPV4, IPV6)))
