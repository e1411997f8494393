"""Which names GA4 takes, and which it keeps for itself. Names are case-sensitive (SEND)."""

import re

FORM = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # SEND, for events and params; EB, for properties

RESERVED_EVENTS = frozenset(  # REF, "Reserved names"
    (
        "ad_activeview", "ad_click", "ad_exposure", "ad_query", "ad_reward", "adunit_exposure",
        "app_clear_data", "app_exception", "app_install", "app_remove", "app_store_refund",
        "app_update", "app_upgrade", "dynamic_link_app_open", "dynamic_link_app_update",
        "dynamic_link_first_open", "error", "firebase_campaign", "firebase_in_app_message_action",
        "firebase_in_app_message_dismiss", "firebase_in_app_message_impression", "first_open",
        "first_visit", "notification_dismiss", "notification_foreground", "notification_open",
        "notification_receive", "notification_send", "os_update", "session_start",
        "user_engagement",
    )
)  # fmt: skip
APP_EVENTS = frozenset(("ad_impression", "in_app_purchase", "screen_view"))  # REF: apps only

# NAM: for names that are made in GA's own pages. REF does not reserve them; see Policy.
RESERVED_IN_GA_PAGES = frozenset(
    (
        "ad_impression", "app_remove", "app_store_refund", "app_store_subscription_cancel",
        "app_store_subscription_renew", "click", "error", "file_download", "first_open",
        "first_visit", "form_start", "form_submit", "in_app_purchase", "page_view", "scroll",
        "session_start", "user_engagement", "view_complete", "video_progress", "video_start",
        "view_search_results",
    )
)  # fmt: skip

RESERVED_PARAMS = frozenset(("firebase_conversion",))  # REF
PARAM_PREFIXES = ("_", "firebase_", "ga_", "google_", "gtag.")  # REF
ITEM_PARAM_EXCEPTIONS = frozenset(("google_business_vertical",))  # EVT: in Google's own samples

RESERVED_PROPERTIES = frozenset(  # REF
    (
        "first_open_time", "first_visit_time", "last_deep_link_referrer", "user_id",
        "first_open_after_install",
    )
)  # fmt: skip
PROPERTY_PREFIXES = ("_", "firebase_", "ga_", "google_")  # REF
