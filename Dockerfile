# The worker: this project's wheel and the locked packages it needs, git, and a user without rights.
ARG BASE=python:3.12-slim

FROM $BASE AS build
WORKDIR /src
COPY requirements.lock ./
RUN pip wheel --quiet --no-deps --require-hashes --requirement requirements.lock --wheel-dir /wheels
COPY pyproject.toml README.md LICENSE ./
COPY blocks blocks
COPY flows flows
# The lock has the developers' tools as well. Of the wheels, each checked by its hash, the last
# step takes those that the project needs to run.
RUN pip wheel --quiet --no-index --find-links /wheels --no-deps --wheel-dir /wheels . && \
    python3 -m venv /opt/runner && \
    /opt/runner/bin/pip install --quiet --no-index --find-links /wheels 'moonmind-container-runner[s3]'

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
