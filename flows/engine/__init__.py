"""Engines: what runs containers, behind one contract.

contract    `Engine`, the protocol, and what its methods promise
selection   the engines by name, and `open_engine`
types       what an engine tells: images, states, evidence, usage, itself; a chown
docker/     the contract on a Docker Engine; nothing else imports docker
images/     how an image is pulled, on any engine
"""
