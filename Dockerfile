# The image of every msgmeter process; which one it is, the command says: worker, migrate, schedule, reconcile.
#
#     docker build --tag msgmeter:0.1.0 .
#
# It runs as a user without rights on a read-only root; a worker writes /var/lib/msgmeter, where a volume belongs.

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
# Without a pip of its own: what is copied below can install nothing.
RUN python -m venv --without-pip /opt/msgmeter
# First what seldom changes. All of it comes as wheels, so no compiler is needed, here or below.
COPY docker/requirements.txt docker/requirements.txt
RUN pip --python /opt/msgmeter/bin/python install --no-cache-dir --only-binary=:all: --requirement docker/requirements.txt
COPY pyproject.toml README.md ./
COPY pipeline pipeline
COPY sql sql
RUN pip --python /opt/msgmeter/bin/python install --no-cache-dir --no-deps .

FROM python:3.11.14-slim-bookworm
RUN pip uninstall --yes pip setuptools wheel \
    && groupadd --gid 10001 msgmeter \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/msgmeter --shell /usr/sbin/nologin msgmeter \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/msgmeter
COPY --from=build /opt/msgmeter /opt/msgmeter
COPY docker/healthy.py /opt/msgmeter/share/msgmeter/healthy.py
# Nothing can be compiled on a read-only root; pip has compiled everything already.
ENV PATH=/opt/msgmeter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MSGMETER_METRICS_HOST=0.0.0.0 \
    MSGMETER_STATE_DIRECTORY=/var/lib/msgmeter
# By number, so that whoever runs it can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/msgmeter
EXPOSE 9464
STOPSIGNAL SIGTERM
# What is well, healthy.py says. Compose restarts nothing for being unhealthy: it shows it, and `up --wait` waits for it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "/opt/msgmeter/share/msgmeter/healthy.py", "worker", "http://127.0.0.1:9464/metrics"]
ENTRYPOINT ["msgmeter"]
CMD ["worker"]
