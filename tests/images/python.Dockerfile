ARG BASE
FROM $BASE
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    git python-is-python3 python3-pytest && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
