"""A broken configuration stops nobody who ever had a good one."""

import pytest

from agent.boot_config import (
    DEFAULT,
    LAST_GOOD,
    VARIABLE,
    choose,
    config_path,
    keep,
    state_directory,
)
from agent.config import ConfigError

NOTHING = {}


@pytest.fixture
def state(tmp_path):
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.fixture
def write(tmp_path, state):
    """Write the configuration: a good one with that file for a secret, or any text."""
    path = tmp_path / "agent.toml"

    def write(text=None, *, secret="/etc/secret"):
        good = (
            f'state_directory = "{state}"\n[stream.main]\nmeasurement_id = "G-ABCDE12345"\n'
            f'api_secret_file = "{secret}"\n'
        )
        path.write_text(good if text is None else text.format(state=state), "utf-8")
        return path

    return write


def kept(path):
    """The configuration at the path, remembered as one that works."""
    chosen = choose(path, environ=NOTHING)
    keep(chosen.text, chosen.config.state_directory)
    return chosen


BROKEN = {
    "an unknown key": 'state_directory = "{state}"\nfoo = 1\n',
    "no TOML": 'state_directory = "{state}"\n[stream\n',
    "an empty value": 'state_directory = "{state}"\n[stream.main]\nmeasurement_id = ""\n',
}


def test_a_good_one_is_taken_with_its_text(write, state):
    path = write()
    chosen = choose(path, environ=NOTHING)
    assert chosen.config.state_directory == state
    assert list(chosen.config.stream) == ["main"]
    assert chosen.text == path.read_bytes()
    assert chosen.problems == ()


def test_a_new_good_one_goes_before_the_last_one(write):
    kept(write(secret="/etc/old"))
    chosen = choose(write(secret="/etc/new"), environ=NOTHING)
    assert str(chosen.config.stream["main"].api_secret_file) == "/etc/new"
    assert chosen.problems == ()


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_with_a_broken_one_the_last_good_one_runs_and_the_problems_are_told(write, state, broken):
    good = kept(write())
    path = write(broken)
    chosen = choose(path, environ={"STATE_DIRECTORY": str(state)})
    assert (chosen.config, chosen.text) == (good.config, good.text)
    assert chosen.problems
    assert all(problem.startswith(str(path)) for problem in chosen.problems)


def test_a_missing_one_is_a_broken_one(write, state):
    good = kept(write())
    path = write()
    path.unlink()
    chosen = choose(path, environ={"STATE_DIRECTORY": str(state)})
    assert chosen.config == good.config
    assert "no such file" in chosen.problems[0]


def test_bytes_that_are_no_text_do_not_hide_where_the_last_good_one_lies(write, state):
    """A card that flips bits flips them in configurations too."""
    good = kept(write())
    path = write()
    path.write_bytes(path.read_bytes() + b"# \xff\xfe\n")
    assert choose(path, environ=NOTHING).config == good.config


def test_every_problem_is_told(write):
    kept(write())
    text = 'state_directory = "{state}"\nfoo = 1\nbar = 2\n'
    assert len(choose(write(text), environ=NOTHING).problems) == 2


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_without_a_last_good_one_a_broken_one_is_an_error(write, state, broken):
    with pytest.raises(ConfigError) as refused:
        choose(write(broken), environ={"STATE_DIRECTORY": str(state)})
    assert refused.value.problems


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[stream\n", b"foo = 1\n", None])
def test_a_last_good_one_that_cannot_be_used_is_none(write, state, content):
    """The error is about the file that a person can correct, not about our own copy of it."""
    path = write(BROKEN["an unknown key"])
    if content is None:
        (state / LAST_GOOD).mkdir()
    elif content:
        (state / LAST_GOOD).write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        choose(path, environ=NOTHING)
    assert [problem.file for problem in refused.value.problems] == [str(path)]


def test_what_is_kept_is_the_text_itself(write, state):
    chosen = kept(write("# for the café\n" + BROKEN["an unknown key"].replace("foo = 1\n", "")))
    assert (state / LAST_GOOD).read_bytes() == chosen.text
    assert "café".encode() in chosen.text


def test_what_is_kept_is_for_nobody_else(write, state):
    kept(write())
    assert (state / LAST_GOOD).stat().st_mode & 0o077 == 0


def test_the_same_is_not_written_again(write, state):
    """Every start would else cost a card two fsyncs."""
    kept(write())
    before = (state / LAST_GOOD).stat()
    kept(write())
    after = (state / LAST_GOOD).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_new_one_replaces_it_and_leaves_nothing_else(write, state):
    kept(write(secret="/etc/old"))
    kept(write(secret="/etc/new"))
    assert b"/etc/new" in (state / LAST_GOOD).read_bytes()
    assert [file.name for file in state.iterdir()] == [LAST_GOOD]


# Where things are


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ('state_directory = "/somewhere"\n', {}, "/somewhere"),
        ('state_directory = "/somewhere"\n', {"STATE_DIRECTORY": "/other"}, "/somewhere"),
        ('state_directory = "relative"\n', {"STATE_DIRECTORY": "/other"}, "/other"),
        ("state_directory = 7\n", {"STATE_DIRECTORY": "/other"}, "/other"),
        ("foo = 1\n", {"STATE_DIRECTORY": "/other"}, "/other"),
        ("[[[", {"STATE_DIRECTORY": "/other"}, "/other"),
        ("state_directory = '/somewhere' # ours\n[stream\n", {}, "/somewhere"),
        ('\ufeffstate_directory = "/somewhere"\n', {}, "/somewhere"),
        ('# state_directory = "/somewhere"\n', {}, "/var/lib/ga4-agent"),
        ("[[[", {}, "/var/lib/ga4-agent"),
        (None, {}, "/var/lib/ga4-agent"),
        (None, {"STATE_DIRECTORY": ""}, "/var/lib/ga4-agent"),
    ],
)
def test_the_state_directory_of_a_broken_configuration_is_the_likeliest(
    tmp_path, text, environ, expected
):
    path = tmp_path / "agent.toml"
    if text is not None:
        path.write_text(text, "utf-8")
    assert str(state_directory(path, environ)) == expected


def test_the_file_is_the_given_one_else_the_environments_else_the_usual_one(tmp_path):
    given, named = tmp_path / "given", tmp_path / "named"
    environ = {VARIABLE: str(named)}
    assert config_path(given, environ) == given
    assert config_path(None, environ) == named
    assert config_path(None, {}) == config_path(None, {VARIABLE: ""}) == DEFAULT
    assert str(DEFAULT) == "/etc/ga4-agent/agent.toml"
