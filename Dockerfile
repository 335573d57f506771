# The service; docs/deploy.md says how it is run.
#
#     docker build -t spikeseg .                                # on the CPU
#     docker build -t spikeseg --build-arg TORCH_BACKEND=cu130 .   # on an NVIDIA GPU

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
# What torch computes with: cpu, cu130 and the like, as uv's --torch-backend names them; empty takes whatever pip finds
# where it is configured to look. uv knows by itself where PyTorch keeps each build.
ARG TORCH_BACKEND=cpu
WORKDIR /build
# For the event-driven kernel, below.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/spikeseg
ENV PATH=/opt/spikeseg/bin:$PATH VIRTUAL_ENV=/opt/spikeseg
# What the service needs changes less often than the service: a layer of its own, from the versions in pyproject.toml.
COPY pyproject.toml ./
RUN python -c 'import tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
print(*project["dependencies"], *extras["serve"], *extras["clients"], *extras["otel"], sep="\n")' > requirements.txt \
 && if [ -n "$TORCH_BACKEND" ]; then \
      python -m venv /opt/uv && /opt/uv/bin/pip install uv==0.13.9 \
      && /opt/uv/bin/uv pip install --torch-backend="$TORCH_BACKEND" -r requirements.txt; \
    else pip install -r requirements.txt; fi
COPY README.md LICENSE ./
COPY models models
COPY clients clients
COPY service service
# What torch brings for those who build upon it, and its own tests, are not for a server. The shared-memory manager in
# torch/bin is its own. The packages are requirements of spikingjelly's and of theirs, for training, plots and data sets,
# which nothing here imports; tests/container/test_container.py has each network compute without them.
RUN pip install --no-deps . \
 && packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
 && rm -rf "$packages/torch/include" "$packages/torch/test" "$packages/torch/share" \
 && find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete \
 && find "$packages/torch/lib" -name '*.a' -delete \
 && pip uninstall --yes torchvision torchaudio tensorboard tensorboard-data-server grpcio matplotlib fonttools scipy h5py \
      SciencePlots pip
# The file system of the container may be read-only and there is no compiler in it, so whatever is compiled at first use
# is compiled here, from / so that it is the installed package's: what is in C for every kind of processor, and Python's
# files. Some files of others are written for other versions of Python and cannot be; nothing imports them.
RUN cd / && python -m models.runtime.event_driven.warm --image \
 && { python -m compileall -q -j 0 /opt/spikeseg/lib >/dev/null 2>&1 || true; }

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /tmp --no-create-home spikeseg
COPY --from=build /opt/spikeseg /opt/spikeseg
ENV PATH=/opt/spikeseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SPIKESEG_HOST=0.0.0.0
WORKDIR /tmp
USER 10001
EXPOSE 8000
# The sessions are handed over before the end; give it more time than SPIKESEG_DRAIN_SECONDS (docker stop --time 40).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"SPIKESEG_PORT\", 8000)}/v2/health/ready', timeout=2)"]
CMD ["python", "-m", "service"]
# As the server will be, without a compiler and with nothing to write to: one window through the default network. An image
# that cannot, or that would fall back from the kernel, is not made.
RUN ["python", "-c", "import clients.cli.main, service.app; \
from models import events, zoo; \
from models.native.events import event_library; \
assert event_library() is not None; \
from service.settings import Settings; \
sensor = events.SensorSize(346, 260); \
model = zoo.load_events(Settings().default_model, backend='event-driven'); \
model.segment(model.initial_state(sensor), events.EventBatch.empty(), sensor)"]
