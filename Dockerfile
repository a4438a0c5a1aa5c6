# Targets: `cpu` (the default), and `cuda` for NVIDIA GPUs with the CUDA libraries that TensorFlow's wheels ask for.
#
#   docker build -t noisemill:cpu .
#   docker build -t noisemill:cuda --target cuda .

FROM python:3.12.12-slim-bookworm AS base
ENV PATH=/opt/noisemill/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# What changes seldom has layers of its own; requirements.txt only pins here, so its development tools stay out.
FROM base AS dependencies
WORKDIR /src
COPY requirements.txt pyproject.toml ./
RUN python -m venv --without-pip /opt/noisemill \
    && pip install --no-cache-dir --quiet "$(grep '^uv==' requirements.txt)" \
    && uv pip install --no-cache --quiet --python /opt/noisemill/bin/python \
       --constraint requirements.txt --extra flower -r pyproject.toml

FROM dependencies AS cuda-dependencies
RUN uv pip install --no-cache --quiet --python /opt/noisemill/bin/python \
    --constraint requirements.txt --extra cuda -r pyproject.toml

FROM dependencies AS build
COPY README.md LICENSE ./
COPY pipeline ./pipeline
COPY workers ./workers
RUN uv pip install --no-cache --quiet --python /opt/noisemill/bin/python --no-deps .

FROM cuda-dependencies AS cuda-build
COPY README.md LICENSE ./
COPY pipeline ./pipeline
COPY workers ./workers
RUN uv pip install --no-cache --quiet --python /opt/noisemill/bin/python --no-deps .

FROM base AS runtime
# By number, so that Kubernetes can tell that it is not root. Volumes take over the owner of the folders that they cover.
RUN groupadd --gid 10001 noisemill \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp noisemill \
    && install -d -o noisemill -g noisemill /data /var/cache/noisemill /run/noisemill
USER 10001:10001
WORKDIR /data
ENV HOME=/tmp \
    NOISEMILL_CACHE_DIR=/var/cache/noisemill \
    NOISEMILL_LOCK_DIR=/run/noisemill \
    NOISEMILL_LOG_FORMAT=json \
    NOISEMILL_METRICS_HOST=0.0.0.0
ENTRYPOINT ["noisemill"]
CMD ["--help"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-build /opt/noisemill /opt/noisemill

FROM runtime AS cpu
COPY --from=build /opt/noisemill /opt/noisemill
