"""What repair does, in words."""

from enum import StrEnum


class Kind(StrEnum):
    """What was done. The words are stored in the ledger: never change one."""

    TEXT_CUT = "text_cut"  # a free text was too long, or held half a character
    CONVERTED = "converted"  # the same value, written as GA4 wants it
    TIME_UNIT = "time_unit"  # seconds, milliseconds or nanoseconds became microseconds
    TIME_MOVED = "time_moved"  # the event's time stood among its params
    PARAM_DROPPED = "param_dropped"
    IDENTIFIER_DROPPED = "identifier_dropped"  # a param, or an id of the sender
    AGENT_PARAM_DROPPED = "agent_param_dropped"  # for want of room
    ITEM_DROPPED = "item_dropped"
    ITEM_PARAM_DROPPED = "item_param_dropped"
    USER_PROPERTY_DROPPED = "user_property_dropped"
    CONSENT_DENIED = "consent_denied"  # it could not be read
    DEVICE_DROPPED = "device_dropped"
    LOCATION_DROPPED = "location_dropped"
    USER_DATA_DROPPED = "user_data_dropped"
    KEY_DROPPED = "key_dropped"  # any other, unknown ones first of all
