# A worker with the example pipelines. Built in two steps, so that no compiler is in the image.
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY ext ext
COPY flowguard flowguard
RUN python -m venv /opt/flowguard && /opt/flowguard/bin/pip install --no-cache-dir .

FROM python:3.11-slim
COPY --from=build /opt/flowguard /opt/flowguard
ENV PATH=/opt/flowguard/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --create-home --home-dir /work worker
WORKDIR /work
COPY pipelines pipelines
USER worker
CMD ["flowguard", "worker", "-A", "pipelines.quickstart", "--broker", "kafka://kafka:9092"]
