"""The currencies of ISO 4217, from a package that follows the standard's own list."""

from iso4217 import Currency

# Currencies that the list has dropped, such as HRK, are not in it: GA4 cannot convert them.
CURRENCIES = frozenset(currency.value for currency in Currency)
