"""ga4-device-agent: the map of the house.

An event travels through the folders in this order:

    intake      the sources (http, mqtt, spool) and the one door that all events come in by;
                parse and mapping read a message, attribution says whose an event is, judging
                applies the rules, reception leaves out repeats and finds the sitting
    queue       the queue on disk, and the ledger that counts in the same transaction
    delivery    the shipper, its backoff, and the one transport that leads out
    ga4         what intake and delivery agree on: rules, repair, privacy, departures, requests,
                outcomes; pure, no I/O

Beside them: ``event`` (what travels), ``clock`` (what time it is), ``boots`` (what time it was),
``config`` (TOML to frozen dataclasses), ``wiring`` (the only place that knows configuration and
parts), ``service`` (the parts at work), ``daemon`` (the process around them), ``upkeep`` and
``drain`` (what people do to the queue), ``status`` and ``doctor`` (what they are told), ``cli``
(the only code that prints) and ``emulator`` (a local GA4 for tests and the demo).

Imports point downwards: cli, service, intake and delivery, queue and ga4, event and clock.
"""

__version__ = "0.1.0"
