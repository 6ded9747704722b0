ARG BASE
FROM $BASE
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    nodejs npm && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
