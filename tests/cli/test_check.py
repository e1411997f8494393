"""`check` says what the daemon would say, of the configuration and of the files that it names."""

import os

import pytest

from tests.cli.running import ga4_agent

STREAM = '[stream.main]\nmeasurement_id = "G-ABCDE12345"\n'


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.delenv("GA4_API_SECRET", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("GA4_ID_SALT", raising=False)

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


APP = '[stream.app]\nfirebase_app_id = "1:2:android:3"\n'


def test_an_app_stream_whose_events_must_all_name_somebody_is_said(check):
    """The agent makes client ids up, but no app_instance_id."""
    status, out, err = check(f"{STREAM}{APP}")
    assert (status, err) == (0, "")
    assert "not yet: stream app: there is no app_instance_id for events that name none" in out
    assert "app_instance_id" not in check(STREAM)[1]
    named = f'{STREAM}{APP}[device]\napp_instance_id = "{"0a" * 16}"\n'
    assert "app_instance_id" not in check(named)[1]


MQTT = '[mqtt]\nhost = "b"\n[[mqtt.subscriptions]]\ntopic = "gym/door"\n'
KEYED = 'event = "visit"\nclient_key = "{json.card}"\n'


def test_it_says_what_the_choice_of_the_visitor_means_for_users_in_reports(check):
    _, out, _ = check(STREAM)
    one = "visitor = device: reports count this machine as one user, however many people use it\n"
    assert one in out
    _, out, _ = check(f'{STREAM}[device]\nvisitor = "sitting"\n[session]\ntimeout = "2 min"')
    assert "visitor = sitting: reports count each visit as a new user" in out
    assert "ends after 2 min without an event" in out
    assert one not in out


def test_it_says_what_a_user_id_of_the_device_means_and_not_which_it_is(check):
    _, out, _ = check(f'{STREAM}[device]\nuser_id = "operator-7"')
    assert "reports by User-ID count all events that name no user as one user's" in out
    assert "operator-7" not in out
    assert "User-ID" not in check(STREAM)[1]


def test_ids_of_keys_without_a_salt_are_said_and_are_no_problem_yet(check, monkeypatch):
    status, out, err = check(f"{STREAM}{MQTT}{KEYED}")
    assert (status, err) == (0, "")
    assert "not yet: client_key of gym/door: there is no salt" in out
    assert "there is no salt" not in check(f"{STREAM}{MQTT}")[1]
    monkeypatch.setenv("GA4_ID_SALT", "a long random text")
    assert "there is no salt" not in check(f"{STREAM}{MQTT}{KEYED}")[1]


def test_a_salt_in_a_file_is_found(check, tmp_path):
    salt = tmp_path / "salt"
    salt.write_text("a long random text\n")
    salt.chmod(0o640)
    text = f'{STREAM}[device]\nid_salt_file = "{salt}"\n{MQTT}{KEYED}'
    status, out, _ = check(text)
    assert (status, "there is no salt" in out) == (0, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user than root cannot tell: run as root")
def test_a_salt_that_others_can_read_is_refused(check, tmp_path):
    salt = tmp_path / "id_salt"
    salt.write_text("s3cr3t-0815")
    salt.chmod(0o644)
    status, out, err = check(f'{STREAM}[device]\nid_salt_file = "{salt}"\n')
    assert (status, "chmod o-rwx" in err) == (2, True)
    assert "s3cr3t" not in out + err


def test_what_ga4_would_drop_of_every_event_is_found(check):
    status, _, err = check(f"{STREAM}[device]\nparams = {{ ga_site = 1 }}")
    assert status == 2
    assert "device.params.ga_site: found a name with the prefix ga_" in err


def test_what_the_queue_holds_is_said_in_events_and_hours(check):
    _, out, _ = check(f'{STREAM}[queue]\nmax_bytes = "64 MiB"\n')
    assert (
        "the queue of 64 MiB holds about 117,000 events, 32 hours at one a second; "
        "then the oldest go" in out
    )
    _, out, _ = check(f'{STREAM}[queue]\nmax_bytes = "64 MiB"\non_full = "refuse"\n')
    assert "then publishers wait" in out
