"""Delivery: the shipper, its backoff, and the one transport that leads out."""
