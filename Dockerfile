# The functions behind one server. Nothing is kept in it: run as many as you like. How to run it well: docs/hosting/container.md
FROM python:3.13-slim AS build
WORKDIR /srv
RUN python -m venv /opt/venv
COPY requirements.lock .
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY functions functions
COPY services services
# Compiled here, because the container's own files may be read only.
RUN /opt/venv/bin/python -m compileall -q functions services

FROM python:3.13-slim
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 WHATSAPP_DOTENV=off
WORKDIR /srv
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv /srv
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', '8080')}/health\", timeout=4)"]
# No access log: it would show the verify token of Meta's handshake. After SIGTERM, what is open may end: a long poll, and what is in flight to Meta.
CMD ["sh", "-c", "exec uvicorn functions.serve:app --host 0.0.0.0 --port ${PORT:-8080} --loop uvloop --http httptools --no-access-log --no-server-header --timeout-graceful-shutdown 60"]
