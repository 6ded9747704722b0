ARG BASE
FROM $BASE
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    haproxy wget && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && mkdir -p /usr/local/etc/haproxy
