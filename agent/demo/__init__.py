"""The demo: real parts on loopback, and a story told with them."""
