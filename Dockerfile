# The service, on the CPU; docs/scaling.md says how it is run.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# The package index has torch with CUDA, gigabytes of it; this one has it without, as version 2.13.0+cpu and the like,
# which pip prefers.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python -m venv /opt/spikeseg
ENV PATH=/opt/spikeseg/bin:$PATH
# What the service needs changes less often than the service: a layer of its own, from the versions in pyproject.toml.
COPY pyproject.toml ./
RUN python -c 'import tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], *project["optional-dependencies"]["serve"], sep="\n")' > requirements.txt \
 && pip install --extra-index-url "$TORCH_INDEX" -r requirements.txt
COPY README.md LICENSE ./
COPY models models
COPY clients clients
COPY service service
RUN pip install --no-deps .
# Built here for every kind of processor, since the image has no compiler; from /, so that it is the installed package.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
 && cd / && python -m models.runtime.event_driven.warm --image

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /tmp --no-create-home spikeseg
COPY --from=build /opt/spikeseg /opt/spikeseg
ENV PATH=/opt/spikeseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SPIKESEG_HOST=0.0.0.0
USER 10001
EXPOSE 8000
# The sessions are handed over before the end; give it more time than SPIKESEG_DRAIN_SECONDS (docker stop --time 40).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"SPIKESEG_PORT\", 8000)}/v2/health/ready', timeout=2)"]
CMD ["python", "-m", "service"]
