"""``python -m agent`` is the command ``ga4-agent``."""

from agent.cli.main import main

if __name__ == "__main__":
    main()
