# Bezel on the CPU: compiled JavaScript, production packages of this platform only, no root, port 5000.
#   docker build -t bezel . && docker run --rm -p 5000:5000 bezel
# The real model, its checkpoint and export kept in a volume:
#   docker run --rm -p 5000:5000 -v bezel-models:/models -e MODEL=google/gemma-2b-it -e HF_TOKEN bezel

FROM node:24-bookworm-slim AS build
WORKDIR /bezel
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json cli.ts predict.ts ./
COPY cli cli
COPY server server
COPY model model
RUN npm run build

FROM node:24-bookworm-slim AS packages
WORKDIR /bezel
COPY package.json package-lock.json .npmrc ./
# Two packages carry the binaries of every platform: what this image cannot load is left behind.
RUN npm ci --omit=dev && \
    arch="$(node -p process.arch)" && \
    find node_modules/onnxruntime-node/bin -mindepth 3 -maxdepth 3 -type d ! -path "*/linux/$arch" -exec rm -r {} + && \
    find node_modules/tokenizers -name '*.node' ! -name "tokenizers.linux-$arch-gnu.node" -delete

FROM node:24-bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
WORKDIR /bezel
ENV NODE_ENV=production HOST=0.0.0.0 PORT=5000 MODEL_CACHE=/models
COPY LICENSE package.json cog.yaml ./
COPY model/demo/onnx model/demo/onnx
COPY --from=packages /bezel/node_modules node_modules
COPY --from=build /bezel/dist dist
RUN install -d -o node -g node /models
USER node
VOLUME /models
EXPOSE 5000
HEALTHCHECK --start-period=10m --start-interval=1s --interval=10s --timeout=5s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/health-check`).then((r) => r.json()).then(({ status }) => process.exit(['READY', 'BUSY'].includes(status) ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["tini", "--", "node", "dist/cli.js"]
CMD ["serve"]
