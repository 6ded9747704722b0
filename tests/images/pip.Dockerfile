ARG BASE
FROM $BASE
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    ca-certificates python-is-python3 python3-pip python3-venv && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    /usr/lib/python3*/EXTERNALLY-MANAGED
# What this machine trusts, and how its pip finds packages.
COPY ca-certificates.crt /etc/ssl/certs/
COPY pip.conf /etc/
