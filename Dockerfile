# Bezel's images: `cpu` (the default) and `cuda`. Built with Cog's labels by `npm run image`; docs/deploying.md explains both.
#   docker build -t bezel .
#   docker build -t bezel:cuda --target cuda .
# The one image that is not made here; to pin it, put its digest behind it: node:24-bookworm-slim@sha256:…
FROM node:24-bookworm-slim AS node

FROM node AS build
WORKDIR /bezel
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json bundle-dependencies.mjs cli.ts predict.ts ./
COPY cli cli
COPY server server
COPY model model
RUN npm run build

FROM node AS packages
WORKDIR /bezel
COPY package.json package-lock.json .npmrc ./
# Two packages carry the binaries of every platform (onnxruntime-node 288 MB, tokenizers 67 MB): only what this image can load stays.
RUN npm ci --omit=dev && \
    arch="$(node -p process.arch)" && \
    find node_modules/onnxruntime-node/bin -mindepth 3 -maxdepth 3 -type d ! -path "*/linux/$arch" -exec rm -r {} + && \
    find node_modules/tokenizers -name '*.node' ! -name "tokenizers.linux-$arch-gnu.node" -delete

FROM node AS tini
RUN apt-get update && apt-get install -y --no-install-recommends 'tini=0.19.0-1*'

# Wheels are zip files, and hold libraries: they are taken apart, not installed. No Python reaches an image.
FROM node AS cuda-libraries
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip unzip
WORKDIR /cuda
COPY deploy/cuda-libraries.txt ./
RUN pip download --quiet --no-cache-dir --no-deps --require-hashes --only-binary=:all: --dest wheels \
      --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
      --requirement cuda-libraries.txt && \
    for wheel in wheels/*.whl; do unzip -q -j -o "$wheel" '*/lib*.so*' -x '*/libnvblas*' '*_tensorrt.so' -d libraries; done && \
    rm -r wheels && \
    mkdir provider toolkit && mv libraries/libonnxruntime_providers_cuda.so libraries/libonnxruntime_providers_shared.so provider && \
    mv libraries/libcublas.so.13 libraries/libcublasLt.so.13 libraries/libcudart.so.13 libraries/libcurand.so.10 toolkit

FROM node AS bezel
COPY --from=tini /usr/bin/tini /usr/bin/tini
WORKDIR /bezel
# A volume takes over the owner of the folder that it covers. The other is for Cog's readiness file, on Kubernetes.
RUN install -d -o node -g node /models /var/run/cog
COPY --from=packages /bezel/node_modules node_modules
COPY --from=build /bezel/dist dist
COPY LICENSE package.json cog.yaml ./
COPY deploy/healthcheck.js deploy/
# The model within the image: an export, as a path in the build context. Any other MODEL can still be served from a volume.
ARG WEIGHTS=model/demo/onnx
COPY ${WEIGHTS} ${WEIGHTS}
ENV NODE_ENV=production HOST=0.0.0.0 PORT=5000 MODEL=/bezel/${WEIGHTS} MODEL_CACHE=/models
# By number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 1000:1000
VOLUME /models
EXPOSE 5000
# A first start with a Hugging Face id pulls and exports before it is ready.
HEALTHCHECK --start-period=10m --interval=10s --timeout=5s --retries=3 CMD ["node", "deploy/healthcheck.js"]
ENTRYPOINT ["tini", "--", "node", "dist/cli.js"]
CMD ["serve"]

FROM bezel AS cuda
# ONNX Runtime looks for a provider beside its own library; the provider finds CUDA's libraries as any program does.
COPY --from=cuda-libraries /cuda/toolkit /usr/local/cuda/lib
COPY --from=cuda-libraries /cuda/provider node_modules/onnxruntime-node/bin/napi-v6/linux/x64
ENV LD_LIBRARY_PATH=/usr/local/cuda/lib NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility NVIDIA_REQUIRE_CUDA="cuda>=13.0"

# Last, since a build without --target makes the last stage.
FROM bezel AS cpu
