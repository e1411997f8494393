"""The doctor: what goes wrong in the field, each with what to do about it. Pure.

diagnosis       what is said of one subject
configuration   the file and the files that it names
secrets         the api_secret of each stream
clock           whether the time is known, and whether TLS is possible with it
endpoint        what stands between this device and the endpoint
daemon          whether it runs, and how it says it is
queue           the file with the events

Each module looks at what others found out (`agent.cli.doctor` does the asking) and knows nothing
of the other subjects.
"""
