"""``secret``: it gets into its file from a terminal or a pipe, and nowhere else."""

import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.secret import Secret, find_secret
from tests.cli.running import ga4_agent
from tests.waiting import PATIENCE

SECRET = "s3cr3t-0815-ÄÖ"
NOBODY = 65534
NONE = "main  found no secret; run: ga4-agent secret set main\n"
ROOT = Path(__file__).parents[2]
STREAM = '[stream.main]\nmeasurement_id = "G-ABCDE12345"\n'
OTHER = '[stream.other]\nmeasurement_id = "G-ABCDE12346"\n'


@pytest.fixture(autouse=True)
def no_secret_of_this_shell(monkeypatch):
    monkeypatch.delenv("GA4_API_SECRET", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "etc" / "agent.toml"
    path.parent.mkdir()
    return write(path, STREAM)


@pytest.fixture
def file(tmp_path):
    """Where the secret lies by default."""
    return tmp_path / "etc" / "credentials" / "main"


def write(path, toml):
    path.write_text(f'state_directory = "{path.parent.parent}/state"\n{toml}')
    return path


def put(config, *arguments, stdin=None):
    stdin = SECRET.encode() if stdin is None else stdin
    ended = ga4_agent("secret", "set", "--config", str(config), *arguments, stdin=stdin)
    assert SECRET not in ended.output
    return ended


def fingerprint(config, *arguments):
    return ga4_agent("secret", "fingerprint", "--config", str(config), *arguments)


# set


def test_a_secret_from_standard_input_gets_into_the_credentials_beside_the_configuration(
    config, file
):
    ended = put(config)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert file.read_text() == f"{SECRET}\n"
    assert ended.stdout == (
        f"the api_secret of main ({Secret(SECRET).fingerprint}) is in {file}; "
        "next: systemctl restart ga4-agent\n"
    )


def test_a_secret_gets_into_the_file_that_the_configuration_names(config, tmp_path):
    file = tmp_path / "secrets" / "main"
    write(config, f'{STREAM}api_secret_file = "{file}"\n')
    ended = put(config)
    assert ended.exit_code == 0
    assert ended.stdout.endswith("next: systemctl reload ga4-agent\n")
    assert find_secret(credential="", file=file, variable="", environ={}) == Secret(SECRET)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_the_file_is_for_owner_and_group_and_not_for_others_whatever_the_umask(config, file, mask):
    before = os.umask(mask)
    try:
        assert put(config).exit_code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_what_editors_and_echo_add_is_stripped(config, file):
    assert put(config, stdin=b"\xef\xbb\xbf  " + SECRET.encode() + b" \r\n").exit_code == 0
    assert file.read_text() == f"{SECRET}\n"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "found no text"),
        (b" \n", "found no text"),
        (b"marker\nmarker\n", "found several lines"),
        (b"mar\x00ker", "found several lines or invisible characters"),
        (b"marker\xff", "found text that is not UTF-8"),
        (b"marker" * 1000, "found more than 4 KiB"),
        (b"marker" * 100_000, "found more than 4 KiB"),
        (b"G-ABCDE12345", "found a measurement id, expected the api_secret (Admin > Data streams"),
        (b"1:1234567890:android:0a1b2c", "found a Firebase app id, expected the api_secret"),
        (b"marker marker", "found a space in it, expected the api_secret"),
    ],
)
def test_what_can_be_no_secret_is_refused_and_the_old_one_stays(config, file, raw, told):
    assert put(config).exit_code == 0
    ended = put(config, stdin=raw)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert told in ended.stderr
    assert "marker" not in ended.stderr
    assert file.read_text() == f"{SECRET}\n"
    assert [path.name for path in file.parent.iterdir()] == ["main"]


@pytest.mark.parametrize("arguments", [["main", SECRET], [SECRET], ["main", "other", SECRET]])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(config, file, arguments):
    ended = put(config, *arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert not file.exists()


def test_with_several_streams_it_must_be_said_which_one(config, file):
    write(config, STREAM + OTHER)
    ended = put(config)
    assert ended.exit_code == 2
    assert "found 2 streams, expected one of main, other" in ended.stderr
    assert put(config, "other").exit_code == 0
    assert not file.exists()
    assert file.with_name("other").read_text() == f"{SECRET}\n"


def test_without_a_stream_there_is_nothing_to_set(config):
    write(config, "")
    ended = put(config)
    assert ended.exit_code == 2
    assert "expected a [stream.NAME] table in the configuration" in ended.stderr


def test_a_broken_configuration_ends_with_2(config, file):
    write(config, f"{STREAM}[htpp]\n")
    ended = put(config)
    assert ended.exit_code == 2
    assert "htpp: found an unknown key" in ended.stderr
    assert not file.exists()


def test_a_configuration_that_is_a_link_has_its_credentials_beside_the_link(config, file, tmp_path):
    """The unit reads them in /etc/ga4-agent, wherever a fleet keeps its agent.toml."""
    real = tmp_path / "data.toml"
    config.rename(real)
    config.symlink_to(real)
    assert put(config).exit_code == 0
    assert file.read_text() == f"{SECRET}\n"


def test_a_file_that_cannot_be_written_is_told(config, file):
    file.mkdir(parents=True)
    ended = put(config)
    assert ended.exit_code == 1
    assert ended.stderr == f"cannot write {file}: Is a directory\n"


def needs_root():
    if os.geteuid() != 0:
        pytest.skip("only root can give files away: run the tests as root")


def test_root_keeps_the_owner_of_a_file_that_is_there(config, file):
    needs_root()
    file.parent.mkdir()
    file.touch(mode=0o666)
    os.chown(file, NOBODY, 12)
    assert put(config).exit_code == 0
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, 12, 0o640)


def test_a_new_file_of_roots_can_be_read_by_the_services_group(config, file, tmp_path):
    needs_root()
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", NOBODY, 12)
    assert put(config).exit_code == 0
    assert (file.stat().st_uid, file.stat().st_gid) == (0, 12)


def test_before_the_service_has_ever_run_the_file_is_roots(config, file):
    needs_root()
    assert put(config).exit_code == 0
    assert (file.stat().st_uid, file.stat().st_gid) == (0, 0)


# set, at a terminal


def at_a_terminal(config, *typed):
    """Exit status and all that the terminal showed; each is typed when it is asked for."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        command = [sys.executable, "-m", "agent", "secret", "set", "--config", str(config)]
        os.execv(sys.executable, command)
    try:
        shown = b""
        for line in typed:
            shown += read_until(terminal, b": ")
            os.write(terminal, line)
        shown += read_until(terminal, None)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), shown.decode()


def read_until(terminal, end):
    """What the terminal shows until then; None: until the process ends."""
    shown = b""
    while end is None or not shown.endswith(end):
        ready, _, _ = select.select([terminal], [], [], PATIENCE)
        assert ready, f"waited in vain after {shown!r}"
        try:
            shown += os.read(terminal, 1000)
        except OSError:  # nobody has the other end any more
            return shown
    return shown


def test_at_a_terminal_it_is_asked_for_and_not_shown(config, file):
    status, shown = at_a_terminal(config, f"{SECRET}\n".encode())
    assert status == 0, shown
    assert "api_secret of the stream main: " in shown
    assert SECRET not in shown
    assert file.read_text() == f"{SECRET}\n"


def test_at_a_terminal_nothing_typed_is_asked_for_again(config, file):
    status, shown = at_a_terminal(config, b"\n", f"{SECRET}\n".encode())
    assert status == 0, shown
    assert shown.count("api_secret of the stream main: ") == 2
    assert file.read_text() == f"{SECRET}\n"


def test_at_a_terminal_bytes_that_are_no_text_are_refused_without_a_traceback(config, file):
    status, shown = at_a_terminal(config, b"marker\xff\n")
    assert status == 1
    assert "found text that is not UTF-8" in shown
    assert "Traceback" not in shown
    assert "marker" not in shown
    assert not file.exists()


def test_at_a_terminal_it_can_be_given_up(config, file):
    status, shown = at_a_terminal(config, b"mark\x03")
    assert status == 130
    assert "nothing written" in shown
    assert "Traceback" not in shown
    assert not file.exists()


def test_the_secret_is_in_no_argument_of_the_process(config):
    """While it waits for the secret and after, the list of processes holds none."""
    command = [sys.executable, "-m", "agent", "secret", "set", "--config", str(config)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(SECRET.encode())
        process.stdin.flush()
        seen = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        seen += Path(f"/proc/{process.pid}/environ").read_bytes()
        said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert SECRET.encode() not in seen + said + errors


# fingerprint


def test_the_fingerprint_is_that_of_the_secret_and_tells_two_apart(config):
    assert put(config).exit_code == 0
    first = fingerprint(config)
    assert (first.exit_code, first.stdout, first.stderr) == (
        0,
        f"main  {Secret(SECRET).fingerprint}\n",
        "",
    )
    assert put(config, stdin=b"another").exit_code == 0
    assert fingerprint(config).stdout == f"main  {Secret('another').fingerprint}\n"


def test_each_stream_has_its_line_and_one_without_a_secret_is_1(config):
    write(config, STREAM + OTHER)
    assert put(config, "main").exit_code == 0
    ended = fingerprint(config)
    assert ended.exit_code == 1
    assert ended.stdout == (
        f"main   {Secret(SECRET).fingerprint}\n"
        "other  found no secret; run: ga4-agent secret set other\n"
    )
    assert fingerprint(config, "main").exit_code == 0
    as_json = fingerprint(config, "--json")
    assert json.loads(as_json.stdout) == {"main": Secret(SECRET).fingerprint, "other": None}
    assert as_json.exit_code == 1


@pytest.mark.parametrize("arguments", [["mian"], [SECRET]])
def test_of_a_stream_that_is_not_there_nothing_is_shown(config, arguments):
    ended = fingerprint(config, *arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "found another name, expected one of main" in ended.stderr
    assert SECRET not in ended.stderr


def test_without_a_stream_there_is_no_fingerprint(config):
    write(config, "")
    ended = fingerprint(config)
    assert ended.exit_code == 2
    assert "expected a [stream.NAME] table" in ended.stderr


def shown_for(config):
    return json.loads(fingerprint(config, "--json").stdout)["main"]


def test_it_is_looked_for_where_the_service_looks_and_in_that_order(
    config, file, tmp_path, monkeypatch
):
    """File, what systemd handed over, what it is going to hand over, environment."""
    marks = {name: Secret(name).fingerprint for name in ("env", "to hand over", "handed", "file")}
    assert shown_for(config) is None
    monkeypatch.setenv("GA4_API_SECRET", "env")
    assert shown_for(config) == marks["env"]
    file.parent.mkdir()
    file.write_text("to hand over")
    assert shown_for(config) == marks["to hand over"]
    handed = tmp_path / "handed"
    handed.mkdir()
    (handed / "api_secret_main").write_text("handed")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    assert shown_for(config) == marks["handed"]
    named = tmp_path / "named"
    named.write_text("file")
    named.chmod(0o600)
    write(config, f'{STREAM}api_secret_file = "{named}"\n')
    assert shown_for(config) == marks["file"]


def test_a_named_file_that_cannot_be_used_is_no_reason_to_show_another_secret(config, tmp_path):
    """The daemon would not take another one either."""
    assert put(config).exit_code == 0
    write(config, f'{STREAM}api_secret_file = "{tmp_path}/none"\n')
    ended = fingerprint(config)
    assert (ended.exit_code, ended.stdout) == (1, NONE)
    assert f"cannot use {tmp_path}/none: found no such file" in ended.stderr


def test_a_credential_that_can_be_no_secret_is_told(config, file):
    file.parent.mkdir()
    file.write_text("marker\nmarker")
    ended = fingerprint(config)
    assert (ended.exit_code, ended.stdout) == (1, NONE)
    assert f"cannot use {file}: found several lines" in ended.stderr
    assert "marker" not in ended.output


def test_of_one_stream_only_its_own_problems_are_told(config, tmp_path):
    write(config, f'{STREAM}{OTHER}api_secret_file = "{tmp_path}/none"\n')
    assert put(config, "main").exit_code == 0
    ended = fingerprint(config, "main")
    assert (ended.exit_code, ended.stderr) == (0, "")
