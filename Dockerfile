# For NVIDIA GPUs: docker build --build-arg EXTRAS=cuda .
FROM python:3.12-slim AS build
ARG EXTRAS=
WORKDIR /src
COPY requirements.txt pyproject.toml ./
# What changes seldom has a layer of its own; requirements.txt only pins here, so its development tools stay out.
RUN python -m venv /opt/noisemill \
    && pip install --no-cache-dir --quiet "$(grep '^uv==' requirements.txt)" \
    && uv pip install --no-cache --quiet --python /opt/noisemill/bin/python \
       --constraint requirements.txt ${EXTRAS:+--extra "$EXTRAS"} -r pyproject.toml
COPY README.md LICENSE ./
COPY pipeline ./pipeline
COPY workers ./workers
RUN uv pip install --no-cache --quiet --python /opt/noisemill/bin/python --no-deps .

FROM python:3.12-slim
COPY --from=build /opt/noisemill /opt/noisemill
RUN useradd --create-home noisemill && install -d -o noisemill /data
USER noisemill
WORKDIR /data
ENV PATH=/opt/noisemill/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["noisemill"]
CMD ["--help"]
