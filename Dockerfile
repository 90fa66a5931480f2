# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
# librdkafka, zlib and OpenSSL are compiled from their crates: a C compiler, make and perl, all part of this image.
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/echopay /echopay

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home echopay \
    && install -d -o echopay -g echopay -m 0750 /var/lib/echopay /etc/echopay
COPY --from=build /echopay /usr/local/bin/echopay
USER echopay
VOLUME ["/var/lib/echopay"]
EXPOSE 8001
ENV ECHOPAY_DATA_DIR=/var/lib/echopay
# No curl in the image: bash speaks enough HTTP to ask whether it is ready.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8001 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["echopay"]
CMD ["serve"]
