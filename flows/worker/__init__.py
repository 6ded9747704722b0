"""The Prefect worker of the type `container-task`, and what looks after its host.

worker      the worker: polls its work pool, claims flow runs, runs and releases them
admission   which of the queued runs may start now, by the host's CPUs and memory
in_process  runs flows in threads of this process, each with an event loop
run_notes   reads container task runs; labels, tags and rejects them
services    beside the claim loop: pool events, SIGTERM, a sweep each minute, silent hosts
sweep       restarts or ends runs whose process died, removes containers nobody owns
cleanup     retries uploads and removes old job folders
"""
