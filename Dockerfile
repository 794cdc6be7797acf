# instar, instarctl, and their links under etcd's names: static programs, with a shell of two megabytes beside them for
# `etcdctl lock NAME sh -c …` and for whoever looks in.
#
#   docker build --tag instar .

FROM rust:1.95-slim-trixie AS build
# The allocator and TLS need a C compiler, for static programs musl's. CMake and protoc are not needed.
RUN apt-get update && apt-get install --yes --no-install-recommends musl-tools busybox-static
WORKDIR /source
COPY . .
RUN target=$(uname -m)-unknown-linux-musl \
 && rustup target add wasm32-unknown-unknown "$target" \
 && cargo build --profile shipped --locked --target "$target" --package host --package ctl \
 && bin=/image/programs/usr/local/bin \
 && mkdir -p "$bin" /image/writable/tmp /image/writable/var/lib/instar \
 && cp "target/$target/shipped/instar" "target/$target/shipped/instarctl" "$bin" \
 && strip "$bin/instar" "$bin/instarctl" \
 && ln -s instar "$bin/etcd" \
 && ln -s instarctl "$bin/etcdctl" \
 && ln -s instarctl "$bin/etcdutl" \
 && mkdir /image/programs/bin \
 && cp "$(command -v busybox)" /image/programs/bin/busybox \
 && for name in sh cat echo ls sleep; do ln -s busybox "/image/programs/bin/$name"; done

# `cargo xtask container` makes this stage of what it has built itself.
FROM scratch
COPY --from=build /image/programs/ /
COPY --from=build --chown=10001:10001 /image/writable/ /
USER 10001:10001
ENV PATH=/usr/local/bin:/bin
# Here is {name}.etcd, unless a data directory is named.
WORKDIR /var/lib/instar
VOLUME /var/lib/instar
EXPOSE 2379 2380
# Whether this member can serve: a linearizable read, as etcd's own health check.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/instarctl", "endpoint", "health", "--command-timeout=2s"]
STOPSIGNAL SIGTERM
# No flag and no variable is set here: what is set twice, the server refuses, as etcd does. Give at least
# --listen-client-urls=http://0.0.0.0:2379 and --advertise-client-urls, or the variables of compose/compose.yaml.
ENTRYPOINT ["/usr/local/bin/instar"]
