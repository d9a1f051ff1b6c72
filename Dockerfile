# phid in a small image: built in one stage, run in another that holds only the libraries it needs.
# Runs as a user without rights, with a read-only root: state is in /var/lib/phid alone.

ARG DEBIAN=bookworm-slim
FROM debian:${DEBIAN} AS build
COPY deploy/install-packages.sh /src/deploy/install-packages.sh
RUN /src/deploy/install-packages.sh build
COPY . /src
WORKDIR /src
RUN cmake --preset release -DPHID_TESTS=OFF \
    && cmake --build --preset release \
    && cmake --install build/release --prefix /opt/phid --strip

FROM debian:${DEBIAN}
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        libmicrohttpd12 libjansson4 libexpat1 libopenblas0-pthread libuv1 libsqlite3-0 \
        libpcre2-8-0 libnettle8 libarchive13 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /var/lib/phid phid \
    && install -d -o phid -g phid -m 0750 /var/lib/phid
COPY --from=build /opt/phid/bin/phid /usr/bin/phid
USER phid
VOLUME /var/lib/phid
EXPOSE 8080
ENV PHID_LISTEN=0.0.0.0:8080 PHID_DATA_DIR=/var/lib/phid PHID_LOG_FORMAT=json
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${PHID_LISTEN##*:} && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '200 OK' <&3"]
ENTRYPOINT ["phid"]
CMD ["serve"]
