# Sluice in a container: `sluiced`, `sluice-gateway`, `sluice`, `fabric-perf` and the example lambdas.
#
#   docker build -t sluice .
#   docker run --rm -p 127.0.0.1:8080:8080 -v sluice:/var/lib/sluice sluice \
#       sluice up --data /var/lib/sluice --http 0.0.0.0:8080 --grpc 0.0.0.0:8081 --insecure
#
# A cluster: deploy/compose (one machine) or deploy/k8s (Kubernetes).

FROM debian:bookworm-slim AS build
WORKDIR /src
# The packages are the project's own list; they change seldom, so this layer is kept.
COPY scripts/deps scripts/packages.txt scripts/
RUN scripts/deps build && rm -rf /var/lib/apt/lists/*
COPY . .
RUN make -j"$(nproc)" BUILD=/build all \
    && install -d /stage/bin /stage/lambdas \
    && install -s -m 0755 /build/sluice /build/sluiced /build/sluice-gateway /build/fabric-perf /stage/bin/ \
    && install -m 0644 /build/lambdas/*.so /stage/lambdas/

FROM debian:bookworm-slim
# What the programs are linked against, and curl for health checks.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates \
        curl \
        libcurl4 \
        libgrpc29 \
        libinih1 \
        libisal2 \
        libjansson4 \
        libjpeg62-turbo \
        libmicrohttpd12 \
        libprotobuf-c1 \
        libre2-9 \
        librocksdb7.8 \
        libssl3 \
        libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 sluice \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/sluice --shell /usr/sbin/nologin sluice \
    && install -d -o sluice -g sluice -m 0750 /var/lib/sluice
COPY --from=build /stage/bin/ /usr/local/bin/
COPY --from=build /stage/lambdas/ /usr/local/lib/sluice/lambdas/
USER 10001:10001
WORKDIR /var/lib/sluice
VOLUME /var/lib/sluice
# Fabric between nodes, health of a node, HTTP and gRPC of a gateway.
EXPOSE 7000 7080 8080 8081
CMD ["sluice", "--help"]
