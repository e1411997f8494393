"""The rules applied: each module yields the violations of one part of a body, lazily."""
