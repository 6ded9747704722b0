"""The contract on a Docker Engine, by docker-py and prefect-docker.

engine         `DockerEngine`
client         connections: address, API version, calls in threads, errors translated
options        the create options, a row each; guard: checked right before Docker gets them
network        the network that tasks share; link_local: iptables rules for it
ownership      what is a job's: told, found and removed
volumes        a job's volumes and mounts; helper: the chown; evidence: `/events`
images         inspect, pull and ask registries
logs           output as it comes; log_position: each byte of it once
stats          what a container uses, streamed from `/stats`
probe          what doctor asks of an engine and of a proxy before it
"""
