# instar, instarctl, and their links under etcd's names.
#
#   docker build --tag instar .

FROM rust:1.95-slim-trixie AS build
# A C compiler is in the image; the allocator and TLS need it. CMake and protoc are not needed.
WORKDIR /source
COPY . .
RUN rustup target add wasm32-unknown-unknown \
 && cargo build --release --locked --package host --package ctl \
 && strip target/release/instar target/release/instarctl

FROM debian:trixie-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin instar \
 && install --directory --owner=instar --group=instar --mode=0700 /var/lib/instar
COPY --from=build /source/target/release/instar /source/target/release/instarctl /usr/local/bin/
RUN ln -s instar /usr/local/bin/etcd \
 && ln -s instarctl /usr/local/bin/etcdctl \
 && ln -s instarctl /usr/local/bin/etcdutl
USER instar
ENV ETCD_DATA_DIR=/var/lib/instar/data
VOLUME /var/lib/instar
EXPOSE 2379 2380
# Whether this member can serve: a linearizable read, as etcd's own health check.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["instarctl", "endpoint", "health", "--command-timeout=2s"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["instar"]
CMD ["--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://127.0.0.1:2379"]
