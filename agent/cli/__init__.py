"""The command line: one module a command group; the only code that prints."""
