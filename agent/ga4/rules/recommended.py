"""The events that Google describes, and what each needs (EVT).

The reference marks ``currency`` and ``value`` with an asterisk: the currency is required if the
value is set. That is ``money`` here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """What one event needs. ``params``: all that its description names."""

    required: frozenset[str]
    params: frozenset[str]
    money: bool


def _event(*required: str, money: bool = False, optional: str = "") -> Recommended:
    amounts = ("currency", "value") if money else ()
    return Recommended(
        required=frozenset(required),
        params=frozenset((*required, *amounts, *optional.split())),
        money=money,
    )


_CART = _event("items", money=True)
_OF_PROMOTION = "creative_name creative_slot promotion_id promotion_name"
_OF_LIST = "item_list_id item_list_name"

RECOMMENDED: Mapping[str, Recommended] = MappingProxyType(
    {
        "ad_impression": _event(
            optional="ad_platform ad_source ad_format ad_unit_name currency value"
        ),
        "add_payment_info": _event("items", money=True, optional="coupon payment_type"),
        "add_shipping_info": _event("items", money=True, optional="coupon shipping_tier"),
        "add_to_cart": _CART,
        "add_to_wishlist": _CART,
        "begin_checkout": _event("items", money=True, optional="coupon"),
        "campaign_details": _event(optional="campaign_id campaign source medium term content"),
        "close_convert_lead": _event(money=True),
        "close_unconvert_lead": _event(money=True, optional="unconvert_lead_reason"),
        "disqualify_lead": _event(money=True, optional="disqualified_lead_reason"),
        "earn_virtual_currency": _event(optional="virtual_currency_name value"),
        "exception": _event(optional="description fatal"),
        "generate_lead": _event(money=True, optional="lead_source"),
        "join_group": _event(optional="group_id"),
        "level_end": _event(optional="level_name success"),
        "level_start": _event(optional="level_name"),
        "level_up": _event(optional="level character"),
        "login": _event(optional="method"),
        "page_view": _event(optional="page_location page_title page_referrer"),
        "post_score": _event("score", optional="level character"),
        "purchase": _event(
            "transaction_id", "items", money=True, optional="customer_type coupon shipping tax"
        ),
        "qualify_lead": _event(money=True),
        "refund": _event("transaction_id", money=True, optional="coupon shipping tax items"),
        "remove_from_cart": _CART,
        "screen_view": _event(optional="screen_class screen_name"),
        "search": _event("search_term"),
        "select_content": _event(optional="content_type content_id item_id"),
        "select_item": _event("items", optional=_OF_LIST),
        "select_promotion": _event(optional=f"{_OF_PROMOTION} items"),
        "share": _event(optional="method content_type item_id"),
        "sign_up": _event(optional="method"),
        "spend_virtual_currency": _event("value", "virtual_currency_name", optional="item_name"),
        "tutorial_begin": _event(),
        "tutorial_complete": _event(),
        "unlock_achievement": _event("achievement_id"),
        "view_cart": _CART,
        "view_item": _CART,
        "view_item_list": _event("items", optional=_OF_LIST),
        "view_promotion": _event("items", optional=_OF_PROMOTION),
        "view_search_results": _event(optional="search_term"),
        "working_lead": _event(money=True, optional="lead_status"),
    }
)
UNDESCRIBED = _event()  # a custom event: nothing is asked of it

# EVT's types. They hold for an event whose description names the param.
NUMBERS = frozenset(("value", "shipping", "tax", "level", "score"))
TEXTS = frozenset(
    (
        "transaction_id", "affiliation", "coupon", "shipping_tier", "virtual_currency_name",
        "payment_type", "group_id", "character", "method", "search_term", "content_type",
        "item_id", "item_list_id", "item_list_name", "creative_name", "creative_slot",
        "location_id", "promotion_id", "promotion_name", "item_name", "achievement_id",
    )
)  # fmt: skip

ITEM_NUMBERS = frozenset(("price", "discount", "index", "quantity"))
ITEM_TEXTS = frozenset(
    (
        "item_id", "item_name", "affiliation", "coupon", "item_brand", "item_category",
        "item_category2", "item_category3", "item_category4", "item_category5", "item_list_id",
        "item_list_name", "item_variant", "location_id", "creative_name", "creative_slot",
        "promotion_id", "promotion_name",
    )
)  # fmt: skip
ITEM_NAMED_BY = ("item_id", "item_name")  # EVT: one of them is required
# All that EVT describes; every other param of an item is a custom one.
ITEM_PARAMS = ITEM_NUMBERS | ITEM_TEXTS | {"currency", "google_business_vertical"}
