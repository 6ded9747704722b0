ARG BASE
FROM $BASE
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    postgresql && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && ln -sf /usr/lib/postgresql/*/bin/* /usr/local/bin/
RUN install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data
ENV PGDATA=/var/lib/postgresql/data
COPY postgres.entrypoint /usr/local/bin/entrypoint
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/usr/local/bin/entrypoint"]
