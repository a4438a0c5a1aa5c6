# Targets: `cpu` (the default), and `cuda` for NVIDIA GPUs with the CUDA libraries that TensorFlow's wheels ask for.
#
#   docker build -t noisemill:cpu .
#   docker build -t noisemill:cuda --target cuda .

FROM python:3.12.12-slim-bookworm AS base
ENV PATH=/opt/noisemill/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The root is read-only and has no bytecode, so every start, every health check too, would compile the library anew.
RUN python -m compileall -q -x '/(idlelib|lib2to3|test|turtledemo)/' /usr/local/lib/python3.12

# What changes seldom has layers of its own; requirements.txt only pins here, so its development tools stay out.
# TensorFlow comes after: which one depends on the target.
FROM base AS dependencies
WORKDIR /src
COPY requirements.txt pyproject.toml ./
RUN python -m venv --without-pip /opt/noisemill \
    && pip install --no-cache-dir --quiet --root-user-action ignore "$(grep '^uv==' requirements.txt)" \
    && echo "tensorflow; sys_platform == 'never'" >without-tensorflow.txt \
    && uv pip install --no-cache --quiet --compile-bytecode --python /opt/noisemill/bin/python \
       --constraint requirements.txt --override without-tensorflow.txt --extra flower --extra ui -r pyproject.toml

# The same version without kernels for GPUs, half as large; there is none for ARM. Nobody compiles against its headers.
FROM dependencies AS cpu-dependencies
RUN if [ "$(uname -m)" = x86_64 ]; then name=tensorflow-cpu; else name=tensorflow; fi \
    && uv pip install --no-cache --quiet --compile-bytecode --python /opt/noisemill/bin/python \
       --constraint requirements.txt "$name==$(sed -n 's/^tensorflow==//p' requirements.txt)" \
    && rm -r /opt/noisemill/lib/python3.12/site-packages/tensorflow/include

FROM dependencies AS cuda-dependencies
RUN uv pip install --no-cache --quiet --compile-bytecode --python /opt/noisemill/bin/python \
       --constraint requirements.txt --extra cuda -r pyproject.toml \
    && rm -r /opt/noisemill/lib/python3.12/site-packages/tensorflow/include

# noisemill alone, so that a change of it is a layer of some megabytes.
FROM dependencies AS build
COPY README.md LICENSE ./
COPY noisemill ./noisemill
COPY pipeline ./pipeline
COPY workers ./workers
RUN uv pip install --no-cache --quiet --compile-bytecode --python /opt/noisemill/bin/python --no-deps \
       --prefix /layer/opt/noisemill .

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
COPY --from=cuda-dependencies /opt/noisemill /opt/noisemill
COPY --from=build /layer /

FROM runtime AS cpu
COPY --from=cpu-dependencies /opt/noisemill /opt/noisemill
COPY --from=build /layer /
