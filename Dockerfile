# One image for every role; which one it plays is its command (see docker-compose.yml).
FROM python:3.11-slim-bookworm AS build
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
WORKDIR /app
ENV UV_PROJECT_ENVIRONMENT=/app/.venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
COPY pyproject.toml uv.lock README.md ./
COPY tidelock tidelock
COPY producers producers
COPY processors processors
COPY sinks sinks
COPY schemas schemas
RUN uv sync --locked --no-dev --no-editable

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 10001 tidelock && mkdir /data && chown tidelock /data
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 TIDELOCK_CONFIG=/etc/tidelock/tidelock.yaml
USER tidelock
WORKDIR /data
VOLUME /data
ENTRYPOINT ["tidelock"]
CMD ["run"]
