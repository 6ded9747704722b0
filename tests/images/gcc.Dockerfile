ARG BASE
FROM $BASE
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    gcc libc6-dev make && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
