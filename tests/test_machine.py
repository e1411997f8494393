"""What this machine says of itself: for GA4's ``device``, and to tell it from another one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ga4.rules.fields import DEVICE
from agent.hardware import facts
from agent.machine import device

MACHINE_ID = "0123456789abcdef0123456789abcd00"
UUID = "4c4c4544-0042-3510-8051-b4c04f4e3432"
TREE = "sys/firmware/devicetree/base"
DMI = "sys/class/dmi/id"
FRAMEBUFFER = "sys/class/graphics/fb0/virtual_size"
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'


def machine(root, files):
    """The files of a machine that does not exist, below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


# -- what goes to GA4 -------------------------------------------------------------------------


def test_a_raspberry_pi_says_what_it_is(tmp_path):
    files = {
        f"{TREE}/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        f"{TREE}/serial-number": "10000000abcdef01\0",
        "etc/os-release": DEBIAN,
        "sys/class/drm/card1-HDMI-A-1/status": "connected\n",
        "sys/class/drm/card1-HDMI-A-1/modes": "1920x1080\n1920x1080i\n1280x720\n",
        "sys/class/drm/card1-HDMI-A-2/status": "disconnected\n",
        "sys/class/drm/card1-HDMI-A-2/modes": "",
        "sys/class/drm/version": "drm 1.1.0 20060810",
    }
    assert device(machine(tmp_path, files)) == {
        "operating_system": "Linux",
        "operating_system_version": "Debian GNU/Linux 12",
        "model": "Raspberry Pi 4 Model B Rev 1.4",
        "brand": "Raspberry Pi",
        "screen_resolution": "1920x1080",
    }


def test_a_pc_says_what_its_firmware_says(tmp_path):
    files = {f"{DMI}/product_name": "ThinkCentre M75q\n", f"{DMI}/sys_vendor": "LENOVO\n"}
    found = device(machine(tmp_path, files))
    assert (found["model"], found["brand"]) == ("ThinkCentre M75q", "LENOVO")


def test_a_machine_that_says_nothing_is_a_linux_machine(tmp_path):
    assert device(tmp_path) == {"operating_system": "Linux"}


@pytest.mark.parametrize("nothing", ["To Be Filled By O.E.M.\n", "Default string\n", "", "\0", b"\xff\xfe"])  # fmt: skip
def test_what_makers_leave_in_place_of_a_name_is_no_name(tmp_path, nothing):
    files = {f"{DMI}/product_name": nothing, f"{DMI}/sys_vendor": nothing}
    assert device(machine(tmp_path, files)) == {"operating_system": "Linux"}


def test_a_maker_that_is_not_named_by_itself_is_left_out(tmp_path):
    found = device(machine(tmp_path, {"proc/device-tree/model": "Pine64 RK3566 Quartz64-A\0"}))
    assert found["model"] == "Pine64 RK3566 Quartz64-A"
    assert "brand" not in found


def test_this_machine_can_be_asked():
    assert device()["operating_system"] == "Linux"


# -- the system's version ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("NAME=Ubuntu\nVERSION_ID='24.04'\n", "Ubuntu 24.04"),
        ('# a comment\nNAME="Some \\"Quoted\\" OS"\nVERSION_ID=1 # so\n', 'Some "Quoted" OS 1'),
        ('NAME="Arch Linux"\nBUILD_ID=rolling\n', None),
        ('NAME="no end\nVERSION_ID=1\n', None),
        ("", None),
    ],
)
def test_the_version_names_the_distribution(tmp_path, release, version):
    found = device(machine(tmp_path, {"etc/os-release": release}))
    assert found.get("operating_system_version") == version


def test_where_etc_has_no_release_the_vendors_is_read(tmp_path):
    found = device(machine(tmp_path, {"usr/lib/os-release": DEBIAN}))
    assert found["operating_system_version"] == "Debian GNU/Linux 12"


# -- the screen -------------------------------------------------------------------------------


def screens(root, *outputs, framebuffer=None):
    files = {}
    for number, (status, modes) in enumerate(outputs):
        files[f"sys/class/drm/card0-DP-{number}/status"] = status
        files[f"sys/class/drm/card0-DP-{number}/modes"] = modes
    files |= {FRAMEBUFFER: framebuffer} if framebuffer else {}
    return device(machine(root, files)).get("screen_resolution")


@pytest.mark.parametrize(
    ("outputs", "framebuffer", "size"),
    [
        ([("connected", "1920x1080i\n")], None, "1920x1080"),
        ([("connected", "800x480\n")], "1024,768\n", "800x480"),
        ([("connected", "800x480\n"), ("connected", "800x480\n")], None, "800x480"),
        ([("connected", "800x480\n"), ("connected", "1920x1080\n")], None, None),
        ([("connected", "800x480\n"), ("connected", "1920x1080\n")], "800,480\n", "800x480"),
        ([("disconnected", "800x480\n")], "1024,768\n", None),
        ([("unknown", "800x480\n")], "1024,768\n", None),
        ([("connected", "")], "1024,768\n", "1024x768"),
        ([], "480,320\n", "480x320"),
        ([], "0,0\n", None),
        ([], "wide\n", None),
        ([], None, None),
    ],
)
def test_the_size_is_that_of_a_connected_screen(tmp_path, outputs, framebuffer, size):
    assert screens(tmp_path, *outputs, framebuffer=framebuffer) == size


CONTENT = st.one_of(
    st.binary(max_size=5000),
    st.text(max_size=300),
    st.from_regex(r"[0-9]{0,8}[x,][0-9]{0,8}", fullmatch=True),
)
PLACES = (
    f"{TREE}/model", f"{DMI}/product_name", f"{DMI}/sys_vendor", "etc/os-release", FRAMEBUFFER,
    "sys/class/drm/card0-DP-1/modes", "etc/machine-id", f"{TREE}/serial-number",
    f"{DMI}/product_uuid",
)  # fmt: skip
FILES = st.fixed_dictionaries(dict.fromkeys(PLACES, CONTENT))


@settings(deadline=None, max_examples=60)  # it writes files: a busy disk is no failure
@given(files=FILES, status=st.sampled_from(["connected", "disconnected", ""]))
def test_whatever_lies_there_it_is_what_ga4_takes_and_no_error(tmp_path_factory, files, status):
    root = machine(
        tmp_path_factory.mktemp("root"), {**files, "sys/class/drm/card0-DP-1/status": status}
    )
    found = device(root)
    assert "category" not in found
    assert "language" not in found
    for name, value in found.items():
        assert DEVICE[name].fullmatch(value)
        assert 0 < len(value) <= 100
        assert value.isprintable()
        assert value == value.strip()
    assert all(isinstance(fact, str) and fact for fact in facts(root).values())


# -- which machine it is ----------------------------------------------------------------------


@pytest.mark.parametrize("tree", [TREE, "proc/device-tree"])
def test_the_facts_are_read_where_they_lie(tmp_path, tree):
    files = {
        f"{tree}/serial-number": "10000000abcdef01\0",
        f"{DMI}/product_uuid": f"{UUID}\n",
        "etc/machine-id": f"{MACHINE_ID}\n",
    }
    assert facts(machine(tmp_path, files)) == {
        "board_serial": "10000000abcdef01",
        "product_uuid": UUID,
        "machine_id": MACHINE_ID,
    }


def test_a_fact_in_other_letters_is_the_same_fact(tmp_path):
    assert facts(machine(tmp_path, {f"{DMI}/product_uuid": UUID.upper()})) == {"product_uuid": UUID}


def test_what_nobody_may_read_is_not_known(tmp_path):
    (machine(tmp_path, {}) / "etc/machine-id").mkdir(parents=True)
    assert facts(tmp_path) == {}


@pytest.mark.parametrize(
    "serial",
    [
        "0000000000000000", "ffffffffffffffff", "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "03000200-0400-0500-0006-000700080009",
        "To be filled by O.E.M.", "Default string", "Not Settable", "0123456789", "unknown", "1",
    ],
)  # fmt: skip
def test_what_every_board_of_a_kind_says_tells_none_from_another(tmp_path, serial):
    files = {f"{TREE}/serial-number": serial, f"{DMI}/product_uuid": serial}
    assert facts(machine(tmp_path, files)) == {}


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0123", "0" * 32])
def test_an_image_that_was_never_started_has_no_machine_id(tmp_path, text):
    assert facts(machine(tmp_path, {"etc/machine-id": text})) == {}


@pytest.mark.parametrize(
    ("point", "known"),
    [("/etc/machine-id", False), ("/etc", True), ("/etc/machine-id-of-others", True)],
)
def test_a_machine_id_for_this_boot_only_is_no_evidence(tmp_path, point, known):
    """On a read-only root systemd mounts another one over the file at every boot."""
    mount = f"30 25 0:26 /machine-id {point} rw,relatime - tmpfs tmpfs rw\n"
    files = {"etc/machine-id": MACHINE_ID, "proc/self/mountinfo": mount}
    assert ("machine_id" in facts(machine(tmp_path, files))) is known
