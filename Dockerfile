# Prefect's server and our worker: this project's wheel and the locked packages it needs, git, and a
# user without rights.
ARG BASE=python:3.12-slim

FROM $BASE AS build
WORKDIR /src
COPY requirements.lock ./
RUN pip wheel --quiet --no-deps --require-hashes --requirement requirements.lock --wheel-dir /wheels
# The lock has the developers' tools as well. Of the wheels, each checked by its hash, this takes those
# that the project needs to run: asked for by a project without code, so that a change of the code
# installs none of them anew.
COPY pyproject.toml ./
RUN install -D /dev/null flows/__init__.py && install -D /dev/null blocks/__init__.py && touch README.md LICENSE && \
    pip wheel --quiet --no-index --find-links /wheels --no-deps --wheel-dir /empty . && \
    python3 -m venv /opt/runner && \
    /opt/runner/bin/pip install --quiet --no-index --find-links /wheels --find-links /empty \
        "moonmind-container-runner[s3,server]"
COPY README.md LICENSE ./
COPY blocks blocks
COPY flows flows
RUN pip wheel --quiet --no-index --find-links /wheels --no-deps --wheel-dir /ours . && \
    /opt/runner/bin/pip install --quiet --no-index --no-deps --force-reinstall /ours/*.whl

FROM $BASE
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
    ca-certificates git openssh-client && rm -rf /var/lib/apt/lists/*
# A new named volume takes the owner of the folder that it is mounted over.
RUN useradd --uid 1000 --create-home runner && install -d -o runner -g runner /work/agent_jobs
COPY --from=build /opt/runner /opt/runner
WORKDIR /home/runner
COPY prefect.yaml ./
ENV PATH=/opt/runner/bin:$PATH PYTHONUNBUFFERED=1
USER runner
CMD ["prefect", "worker", "start", "--pool", "container-tasks", "--type", "container-task"]
