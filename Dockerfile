# synwatch in a container. It watches the network namespace it runs in, so mostly the host's:
#
#   docker build -t synwatch .
#   docker run --rm --network host --cap-drop ALL --cap-add NET_RAW synwatch
#
# The HTTP server listens on 127.0.0.1:10197. In a network namespace of its own nobody else reaches
# that: append --web.listen-address=:10197 there, and publish the port to those who may see it.

FROM docker.io/library/rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin synwatch

FROM docker.io/library/debian:bookworm-slim
COPY --from=build /src/target/release/synwatch /usr/local/bin/synwatch
COPY config/synwatch.toml /etc/synwatch/synwatch.toml
# A file capability, as a process that is not root has no use for the container's own. It makes the
# start fail (EPERM) where CAP_NET_RAW is not allowed at all: then nothing could be captured anyway.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libcap2-bin \
    && setcap cap_net_raw+ep /usr/local/bin/synwatch \
    && apt-get purge -y --auto-remove libcap2-bin \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-log-init --no-create-home --shell /usr/sbin/nologin --uid 10197 synwatch
# By number, so that Kubernetes can tell that it is not root (runAsNonRoot).
USER 10197
EXPOSE 10197
STOPSIGNAL SIGTERM
# No HEALTHCHECK: the image has nothing that could ask; /-/healthy is there for the orchestrator.
ENTRYPOINT ["/usr/local/bin/synwatch"]
