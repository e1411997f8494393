"""A new default route is noticed, whatever else is in the kernel's tables."""

from agent.routes import default_routes, read_default_routes

IPV4 = """\
Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
wlan0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0
"""
ZERO = "0" * 32
IPV6 = f"""\
fd{"0" * 30} 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     eth0
{ZERO} 00 {ZERO} 00 fd{"0" * 29}1 00000400 00000002 00000000 00000003     wwan0
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
"""


def test_a_default_route_has_a_gateway_and_is_not_loopbacks():
    assert default_routes(IPV4, IPV6) == {("eth0", "010200C0"), ("wwan0", "fd" + "0" * 29 + "1")}


def test_no_tables_are_no_routes():
    assert default_routes("", "") == frozenset()


def test_the_kernels_own_tables_are_understood():
    assert all(interface for interface, _ in read_default_routes())
