"""A filter before the Docker socket: what a request means is read, held against a list of the calls
that tasks need, and written anew; nothing that somebody sent reaches the engine as it was.

`calls` is the list, `queries` and `bodies` what each may say, `rights` what only the engine can
tell. `python -m flows.docker_proxy` runs it, with the settings of `settings`. It imports no other
room but the names in `spec`.
"""
