"""What stands beside the events in a body (REF, "JSON POST body", unless another is named)."""

import re
from collections.abc import Mapping
from types import MappingProxyType

EVENT_KEYS = frozenset(("name", "params", "timestamp_micros"))
PROPERTY_KEYS = frozenset(("value", "timestamp_micros"))  # UP

APP_INSTANCE_ID_LENGTH = 32
APP_INSTANCE_ID = re.compile(r"[A-Fa-f0-9]+")  # EB; the server says "hexadecimal"

# The two documented forms: numbers joined by a dot, and since 2026-02-17 the whole _ga cookie.
CLIENT_ID = re.compile(r"(GA1\.[0-9-]+\.)?[0-9]+\.[0-9]+")

# A positive number (REF: it stands for a time), or since 2026-02-17 the session's own cookie.
# Nobody documents the cookie's layout; the older has the number third, the newer behind an "s".
SESSION_NUMBER = re.compile(r"0*[1-9][0-9]*")
OLDER_SESSION_COOKIE = re.compile(r"GS1\.[0-9-]+\.[1-9][0-9]*(\..*)?", re.DOTALL)
NEWER_SESSION_COOKIE = re.compile(r"GS2\.[0-9-]+\.(?P<parts>.*)", re.DOTALL)
NEWER_SESSION_PART = re.compile(r"s[1-9][0-9]*")

CONSENT_KEYS = frozenset(("ad_user_data", "ad_personalization"))
CONSENT_STATES = ("GRANTED", "DENIED")
VALIDATION_BEHAVIORS = ("RELAXED", "ENFORCE_RECOMMENDATIONS")

ANY_TEXT = re.compile(r".*", re.DOTALL)
LOCATION: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "city": ANY_TEXT,
        "region_id": re.compile(r"[A-Z]{2}-[A-Z0-9]{1,3}"),  # ISO 3166-2
        "country_id": re.compile(r"[A-Z]{2}"),  # ISO 3166-1 alpha-2
        "subcontinent_id": re.compile(r"[0-9]{3}"),  # UN M49, with its leading zeros
        "continent_id": re.compile(r"[0-9]{3}"),
    }
)
DEVICE: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "category": ANY_TEXT,  # REF names examples only
        "language": ANY_TEXT,
        "screen_resolution": re.compile(r"[0-9]+x[0-9]+"),
        "operating_system": ANY_TEXT,
        "operating_system_version": ANY_TEXT,
        "model": ANY_TEXT,
        "brand": ANY_TEXT,
        "browser": ANY_TEXT,
        "browser_version": ANY_TEXT,
    }
)
EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "region_id": 'a text like "US-CA" (ISO 3166-2)',
        "country_id": 'a text like "US" (ISO 3166-1)',
        "subcontinent_id": 'a text like "021" (UN M49)',
        "continent_id": 'a text like "019" (UN M49)',
        "screen_resolution": 'a text like "1920x1080"',
    }
)

SHA256 = re.compile(r"[A-Fa-f0-9]{64}")  # UID: hashed with SHA-256, written in hex
USER_DATA_HASHES = frozenset(("sha256_email_address", "sha256_phone_number"))  # UID
USER_DATA_KEYS = USER_DATA_HASHES | {"address"}
ADDRESS_HASHES = frozenset(("sha256_first_name", "sha256_last_name", "sha256_street"))  # UID
ADDRESS_KEYS = ADDRESS_HASHES | {"city", "region", "postal_code", "country"}
