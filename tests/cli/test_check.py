"""`check` says what the daemon would say, of the configuration and of the files that it names."""

import os

import pytest

from tests.cli.running import ga4_agent

STREAM = '[stream.main]\nmeasurement_id = "G-ABCDE12345"\n'


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.delenv("GA4_API_SECRET", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    def check(text):
        path = tmp_path / "agent.toml"
        path.write_text(text)
        done = ga4_agent("check", "--config", str(path))
        return done.exit_code, done.stdout, done.stderr

    return check


def test_a_good_configuration_is_good_and_what_is_still_missing_is_said(check):
    status, out, err = check(STREAM)
    assert (status, err) == (0, "")
    assert "is good: streams main; events go to main unless they say otherwise" in out
    assert "not yet: stream main: there is no api_secret; run: ga4-agent secret set main" in out


def test_the_id_of_the_example_is_found_before_events_are_lost_on_it(check):
    status, _, err = check('[stream.main]\nmeasurement_id = "G-XXXXXXXXXX"\n')
    assert status == 2
    assert "stream.main.measurement_id: found the example's G-XXXXXXXXXX, expected yours" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="another user than root cannot tell: run as root")
@pytest.mark.parametrize(
    "broken",
    [
        '{stream}api_secret_file = "{missing}"\n',
        '{stream}[network]\nca_file = "{missing}"\n',
        '{stream}[http]\ntoken_file = "{missing}"\n',
        (
            '{stream}[mqtt]\nhost = "b"\ntls = true\nca_file = "{missing}"\n'
            '[[mqtt.subscriptions]]\ntopic = "t"\n'
        ),
        (
            '{stream}[mqtt]\nhost = "b"\nusername = "u"\npassword_file = "{missing}"\n'
            '[[mqtt.subscriptions]]\ntopic = "t"\n'
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named_as_the_daemon_would(check, tmp_path, broken):
    missing = tmp_path / "missing"
    status, _, err = check(broken.format(stream=STREAM, missing=missing))
    assert (status, str(missing) in err) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user than root cannot tell: run as root")
def test_a_secret_that_others_can_read_is_refused(check, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t-0815")
    secret.chmod(0o644)
    status, out, err = check(f'{STREAM}api_secret_file = "{secret}"\n')
    assert (status, "chmod o-rwx" in err) == (2, True)
    assert "s3cr3t" not in out + err
