"""GA4's rules as data: frozen tables, each fact with the page that it comes from.

REF  Measurement Protocol reference         SEND  guide "Sending events"
EVT  events reference                       VAL   pages on validation
UP   guide "User properties"                UID   guide "Send user-provided data"
LIM  GA help 9267744 (collection limits)    NAM   GA help 13316687 (names in GA's own pages)
EB   Google's Event Builder (ga-dev-tools: open source, so a statement of Google's)

`docs/ga4-rules.md` says what was decided where they are silent or contradict each other.
"""
