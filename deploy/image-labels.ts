import type { OpenApiDocument } from '../server/messages.js'

export const TARGETS = ['cpu', 'cuda'] as const

/** A stage of the Dockerfile that makes an image. */
export type Target = (typeof TARGETS)[number]

/** The CUDA release of the libraries in deploy/cuda-libraries.txt. */
const CUDA_VERSION = '13.0'

export interface ImageFacts {
  readonly target: Target
  /** cog.yaml, parsed. */
  readonly cogYaml: Readonly<Record<string, unknown>>
  readonly openapi: OpenApiDocument
  /** The Cog release whose contract the image keeps: readers decide by it what they may ask for. */
  readonly cogVersion: string
  /** Of this package. */
  readonly version: string
  /** The commit that was built; undefined outside of a git tree. */
  readonly revision: string | undefined
}

/**
 * The labels by which Cog's tools, and registries for Cog images, know a model.
 *
 * `run.cog.*` are those of Cog's builder, but for those of its own base images and weight layers. `org.cogmodel.*` are what
 * Cog wrote before, up to 2024; Cog still reads `org.cogmodel.config` where `run.cog.config` is missing.
 * Source: replicate/cog, `pkg/image/build.go` (what is written), `pkg/image/config.go` and `pkg/model/artifact_image.go` (what
 * is read); commit 82c42562 removed the older ones.
 */
export function imageLabels(facts: ImageFacts): Record<string, string> {
  const { cogVersion, version, revision } = facts
  const config = JSON.stringify(cogConfig(facts))
  const openapi = JSON.stringify(facts.openapi)
  return {
    'run.cog.version': cogVersion,
    'run.cog.config': config,
    'run.cog.openapi_schema': openapi,
    'run.cog.pip_freeze': '',
    // PID 1 passes signals on and reaps: nothing has to be put in front of it.
    'run.cog.has_init': 'true',
    'org.cogmodel.deprecated': 'The org.cogmodel labels are deprecated. Use run.cog.',
    'org.cogmodel.cog_version': cogVersion,
    'org.cogmodel.config': config,
    'org.cogmodel.openapi_schema': openapi,
    'org.opencontainers.image.version': version,
    ...(revision !== undefined && { 'org.opencontainers.image.revision': revision }),
  }
}

/**
 * cog.yaml as Cog's builder completes it: `run` is written as `predict`, and `build` tells what this very image needs, since
 * `cog predict <image>` asks for a GPU by it. Readers take it that `build` is there.
 */
function cogConfig({ target, cogYaml }: ImageFacts): Record<string, unknown> {
  const { build, run, predict, ...rest } = cogYaml
  const { gpu: _gpu, ...others } = (build ?? {}) as Record<string, unknown>
  return {
    build: target === 'cuda' ? { gpu: true, ...others, cuda: CUDA_VERSION } : others,
    predict: run ?? predict,
    ...rest,
  }
}
