ARG BASE
FROM $BASE
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    redis-server && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && install -d -o redis -g redis /data
WORKDIR /data
