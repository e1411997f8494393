"""Intake: the sources, and the one door that all events come in by."""
