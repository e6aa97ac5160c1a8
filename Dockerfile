# syntax=docker/dockerfile:1
# The agent: `haprobe` with the dependencies of lock/agent.txt, on Debian's own Python.
#
#   docker build -t haprobe .
#   docker run --network host --cap-drop ALL --cap-add NET_RAW --cap-add NET_ADMIN --cap-add NET_BIND_SERVICE \
#     --cap-add SYS_NICE \
#     -v ./haprobe.yml:/etc/haprobe/haprobe.yml:ro -v haprobe:/var/lib/haprobe haprobe
#
# It runs as root without root's powers: Docker gives added capabilities to root only, and capabilities on the
# interpreter's file would stop even `--help` where one of them is not granted.

FROM debian:bookworm-slim AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY lock/agent.txt lock/build.txt lock/
RUN python3 -m venv /opt/haprobe \
 && /opt/haprobe/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: -r lock/agent.txt \
 && python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: -r lock/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY probe probe
COPY dashboards dashboards
COPY systemd systemd
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index -w /src/dist . \
 && /opt/haprobe/bin/pip install --no-deps --no-index /src/dist/*.whl \
 && rm -rf /opt/haprobe/bin/pip* /opt/haprobe/lib/python3*/site-packages/pip*

FROM debian:bookworm-slim
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/haprobe /opt/haprobe
ENV PATH=/opt/haprobe/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 STATE_DIRECTORY=/var/lib/haprobe
VOLUME /var/lib/haprobe
EXPOSE 10862/tcp 862/udp
STOPSIGNAL SIGTERM
ENTRYPOINT ["haprobe"]
CMD ["run", "--config.file", "/etc/haprobe/haprobe.yml"]
