"""The contract on a Docker Engine, by docker-py and prefect-docker.

engine         `DockerEngine`
client         connections: address, API version, calls in threads, errors translated
options        the create options, a row each; guard: checked right before Docker gets them
objects        a job's volumes and mounts, all that carries a job's label, `/events`; the chown
images         inspect, pull and ask registries
logs           output as it comes; log_position: each byte of it once
stats          what a container uses, streamed from `/stats`
probe          what doctor asks of an engine and of a proxy before it
"""
