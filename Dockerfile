# instar, instarctl, and their links under etcd's names: static programs, and nothing else.
#
#   docker build --tag instar .

FROM rust:1.95-slim-trixie AS build
# The allocator and TLS need a C compiler, for static programs musl's. CMake and protoc are not needed.
RUN apt-get update && apt-get install --yes --no-install-recommends musl-tools
WORKDIR /source
COPY . .
RUN target=$(uname -m)-unknown-linux-musl \
 && rustup target add wasm32-unknown-unknown "$target" \
 && cargo build --release --locked --target "$target" --package host --package ctl \
 && bin=/image/programs/usr/local/bin \
 && mkdir -p "$bin" /image/writable/tmp /image/writable/var/lib/instar \
 && cp "target/$target/release/instar" "target/$target/release/instarctl" "$bin" \
 && strip "$bin/instar" "$bin/instarctl" \
 && ln -s instar "$bin/etcd" \
 && ln -s instarctl "$bin/etcdctl" \
 && ln -s instarctl "$bin/etcdutl"

# `cargo xtask container` makes this stage of what it has built itself.
FROM scratch
COPY --from=build /image/programs/ /
COPY --from=build --chown=10001:10001 /image/writable/ /
USER 10001:10001
ENV PATH=/usr/local/bin ETCD_DATA_DIR=/var/lib/instar/data
VOLUME /var/lib/instar
EXPOSE 2379 2380
# Whether this member can serve: a linearizable read, as etcd's own health check.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/instarctl", "endpoint", "health", "--command-timeout=2s"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/instar"]
CMD ["--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://127.0.0.1:2379"]
